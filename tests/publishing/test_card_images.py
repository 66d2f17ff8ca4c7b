from pathlib import Path

import pytest
from PIL import Image

from limner.errors import BadUsage
from limner.generation.image_files import ImageRecord, write_image
from limner.publishing.card_images import captions_of, generated, is_caption, samples
from limner.run_folder import RunDir
from messages import raises
from publishing.runs_to_publish import SECRET, finished_run

RECORD = ImageRecord(
    prompt="a hat",
    negative_prompt="",
    seed=3,
    steps=4,
    guidance=1.0,
    distilled_guidance=None,
    width=8,
    height=8,
    base="flux-dev",
    sampler="FlowMatchEulerDiscreteScheduler",
    loras=(),
)


def test_samples_are_those_of_the_step_of_the_lora(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    found = samples(run, {"ss_steps": "399"})
    assert [(item.path, item.prompt) for item in found] == [
        (run.sample_path(300, 0), "sks cat on a hill"),
        (run.sample_path(300, 1), SECRET),
    ]
    assert samples(run, {"ss_steps": "400"})[0].path == run.sample_path(400, 0)
    assert samples(run, {"ss_steps": "299"}) == samples(run, {}) == []


def test_pictures_of_generate_bring_their_prompts_and_how_they_were_made(tmp_path: Path):
    write_image(tmp_path, Image.new("RGB", (8, 8)), RECORD)
    Image.new("RGB", (8, 8)).save(tmp_path / "somebody.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    (image,) = generated(tmp_path)
    assert image.prompt == "a hat" and image.parameters.startswith("a hat\nSteps: 4")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_pictures_is_told(tmp_path: Path, folder: str):
    with raises(BadUsage):
        generated(tmp_path / folder)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (SECRET, True),
        (f"sks cat, {SECRET}", True),
        (f"SKS cat {SECRET.upper()}.", True),
        ("sks cat", False),
        ("", False),
        ("a secret caption of mine on a hill", False),
    ],
)
def test_a_caption_is_known_with_and_without_the_trigger(prompt, expected):
    assert is_caption(prompt, [f"sks cat, {SECRET}", "sks cat", ""], "sks cat") is expected


def test_captions_are_listed_once_and_damaged_sheets_have_none(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    assert captions_of(run) == (f"sks cat, {SECRET}",)
    run.data_path.write_text('{"images": [3, {"captions": null}, {"captions": ["b", 4, "b"]}]}')
    assert captions_of(run) == ("b",)
    assert captions_of(RunDir(tmp_path / "no-run")) == ()
