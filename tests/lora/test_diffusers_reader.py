"""What ``lora info`` says of diffusers, held against its own loader and models, without weights."""

from pathlib import Path

import pytest
from benchmarks.robustness import lora_forms, stock
from safetensors.torch import save_file

from limner.errors import BadLora
from limner.lora import file
from limner.lora.diffusers_reader import as_loaded
from limner.lora.inspect import inspect
from limner.models.key_map import KeyStyle
from limner.models.registry import family_keys
from messages import raises


def saved(path: Path, family: str, style: KeyStyle, ending: str) -> Path:
    names, form = family_keys(family), lora_forms.Form(style, ending, "blocks")
    save_file(lora_forms.tensors(form, names, stock.shapes(names)), path)
    return path


OWN, NATIVE = KeyStyle("transformer.", "diffusers"), KeyStyle("diffusion_model.", "native")
PEFT = KeyStyle("base_model.model.", "diffusers")


@pytest.mark.parametrize(
    ("family", "style", "ending", "loads"),
    [
        ("z-image", OWN, "lora_A", True),
        ("z-image", NATIVE, "lora_down + alpha", False),  # its model has no qkv: peft passes over it
        ("z-image", PEFT, "lora_A + alpha", False),  # gets a second prefix, and peft raises
        ("sd3", OWN, "lora_A", True),
        ("sd3", OWN, "lora_A.default", False),  # layers without numbers
        ("qwen-image", OWN, "LoKr, whole", False),  # raises
        ("flux2", OWN, "LoKr", False),  # raises for its alpha
    ],
)
def test_info_says_what_stock_diffusers_does(
    tmp_path: Path, family: str, style: KeyStyle, ending: str, *, loads: bool
) -> None:
    path = saved(tmp_path / "lora.safetensors", family, style, ending)
    assert (inspect(path, family).loads["diffusers"] == "yes") == loads
    fact = stock.outcome_of(path, family_keys(family), file.read(path, family))
    assert (fact == "yes") == loads, fact


@pytest.mark.parametrize(
    ("family", "style", "ending"),
    [
        ("z-image", NATIVE, "lora_down + alpha"),
        ("sd3", OWN, "lora_A.default"),
        ("qwen-image", OWN, "LoKr, whole"),
        ("flux2", OWN, "LoKr"),
        ("flux", OWN, "LoKr, whole"),
    ],
)
def test_why_a_file_does_not_load_is_told(tmp_path: Path, family: str, style: KeyStyle, ending: str) -> None:
    path = saved(tmp_path / "lora.safetensors", family, style, ending)
    with raises(BadLora):
        as_loaded(path, family_keys(family))


def test_what_diffusers_warns_of_is_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "lora.safetensors", "qwen-image", OWN, "DoRA of LyCORIS")
    assert inspect(path, "qwen-image").loads["diffusers"] != "yes"
    assert capfd.readouterr() == ("", "")
