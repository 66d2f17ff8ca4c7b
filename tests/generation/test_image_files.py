import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from limner.generation.image_files import ImageRecord, UsedLora, slug, write_image

CAT = UsedLora(name="sks cat", sha256="0123456789abcdef" * 4, strength=0.8, trained_steps=300)
INK = UsedLora(name="ink", sha256="f" * 64, strength=0.5)
RECORD = ImageRecord(
    prompt="a red fox, sitting",
    negative_prompt="blurry",
    seed=3,
    steps=28,
    guidance=4.5,
    distilled_guidance=None,
    width=64,
    height=32,
    base="sdxl",
    sampler="DDIMScheduler",
    loras=(CAT, INK),
)
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""The web UI's own pattern of one setting, ``modules/infotext_utils.py``."""


def settings_of(text: str) -> dict[str, str]:
    """The last line of the web UI's text, read as it reads it."""
    return {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in PARAMETER.findall(text.splitlines()[-1])
    }


def test_the_web_ui_reads_prompt_loras_and_settings():
    prompt, negative, last = RECORD.parameters().splitlines()
    assert prompt == "a red fox, sitting <lora:sks-cat:0.8> <lora:ink:0.5>"
    assert negative == "Negative prompt: blurry"
    settings = settings_of(last)
    assert settings.pop("Version").startswith("Limner ")
    assert settings == {
        "Steps": "28",
        "Sampler": "DDIM",
        "CFG scale": "4.5",
        "Seed": "3",
        "Size": "64x32",
        "Model": "sdxl",
        "Lora hashes": "sks-cat: 0123456789ab, ink: ffffffffffff",
    }


def test_a_base_that_is_told_its_guidance_says_so():
    record = replace(RECORD, negative_prompt="", guidance=1.0, distilled_guidance=3.5, loras=())
    prompt, last = record.parameters().splitlines()
    assert prompt == RECORD.prompt
    settings = settings_of(last)
    assert (settings["CFG scale"], settings["Distilled CFG Scale"]) == ("1", "3.5")
    assert "Lora hashes" not in settings


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_a_lora_and_a_base_are_called_the_settings_can_be_read(name, base):
    record = replace(RECORD, base=base, loras=(replace(CAT, name=name), INK))
    text = record.parameters()
    assert len(re.findall(r"<lora:[^<>:]+:0\.[85]>", text)) == 2
    if not set(base) & set('"\\\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'):  # what ends a line or a string
        assert settings_of(text)["Lora hashes"].endswith(", ink: ffffffffffff")


def test_the_metadata_are_in_the_file_and_hold_no_path(tmp_path):
    path = write_image(tmp_path, Image.new("RGB", (64, 32)), replace(RECORD, prompt="ein Käfer 猫 \0 \ud800"))
    assert path.name == "ein-käfer-猫-step300-strength0.8-seed3.png"
    with Image.open(path) as image:
        text = image.text  # pyright: ignore[reportAttributeAccessIssue]
    assert text["parameters"].startswith("ein Käfer 猫   ? <lora:")
    values = json.loads(text["limner"])
    assert values["prompt"] == "ein Käfer 猫 \0 \ud800"
    assert values["loras"][0] == {
        "name": "sks cat",
        "sha256": CAT.sha256,
        "strength": 0.8,
        "trained_steps": 300,
    }
    assert str(tmp_path) not in str(text)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red_fox, sitting!", "a-red-fox-sitting"),
        ("...", "blank"),
        ("../../etc/passwd", "etc-passwd"),
        ("con", "con"),
        ("x" * 100, "x" * 40),
        ("猫" * 100, "猫" * 40),
    ],
)
def test_a_prompt_as_the_name_of_a_file(prompt, name):
    assert slug(prompt) == name


def test_a_name_without_a_lora_has_neither_step_nor_strength():
    assert replace(RECORD, loras=()).stem == "a-red-fox-sitting-seed3"
    assert replace(RECORD, loras=(INK, CAT)).stem == "a-red-fox-sitting-strength0.5-seed3"
