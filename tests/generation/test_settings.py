from pathlib import Path

import pytest

from limner.errors import BadUsage
from limner.generation.settings import GenerationRequest, Settings
from limner.lora.metadata import SamplingHints
from limner.recipe.prompt_file import PromptLine
from messages import raises

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("steps", 0, "--steps is 0"),
        ("images_per_prompt", 0, "--images-per-prompt is 0"),
        ("seed", -1, "--seed is -1"),
        ("seed", (1, -2), "--seed is -2"),
        ("seed", 2**63, "--seed is 9223372036854775808"),
        ("width", -16, "--width is -16"),
        ("height", 0, "--height is 0"),
        ("guidance", NAN, "--guidance is nan"),
        ("lora_scale", float("inf"), "--lora-scale is inf"),
        ("lora_scale", (0.5, NAN), "--lora-scale is nan"),
    ],
)
def test_what_means_nothing_is_refused_by_its_option(name, value, flag):
    with pytest.raises(BadUsage, match=f"^{flag}; it must be"):
        Settings(**{name: value})


def test_seeds_are_one_apart_or_listed_and_each_is_taken_once():
    assert Settings(seed=3, images_per_prompt=3).seeds == (3, 4, 5)
    assert Settings(seed=(5, 2, 5)).seeds == (5, 2)
    with raises(BadUsage):
        Settings(seed=(5, 2), images_per_prompt=2)


def test_one_strength_or_several():
    assert Settings().strengths == (1.0,)
    assert Settings(lora_scale=(0, 1.0, 0.0)).strengths == (0, 1.0)


def request(**more) -> GenerationRequest:
    values = {"targets": (Path("run"),), "prompts": (PromptLine("a"),), "out": Path("out"), **more}
    return GenerationRequest(**values)


@pytest.mark.parametrize(
    ("more", "is_grid"),
    [
        ({}, False),
        ({"settings": Settings(images_per_prompt=4)}, False),
        ({"settings": Settings(seed=(1, 2))}, True),
        ({"settings": Settings(lora_scale=(0, 1))}, True),
        ({"targets": (Path("1.safetensors"), Path("2.safetensors"))}, True),
    ],
)
def test_what_is_compared_makes_a_grid(more, is_grid):
    assert request(**more).is_grid == is_grid


def test_a_strength_that_is_no_number_is_refused():
    with raises(BadUsage):
        request(loras={Path("b.safetensors"): NAN})


@pytest.mark.parametrize(
    "branches",
    [{"lora_on": "negative"}, {"lora_on": "both", "negative_lora": Path("grey.safetensors")}],
    ids=["unknown", "two"],
)
def test_branches_that_mean_nothing_are_told(branches):
    with raises(BadUsage):
        Settings(**branches)


@pytest.mark.parametrize(
    "settings",
    [{"lora_scale": 0.5}, {"lora_on": "positive"}, {"negative_lora": Path("grey.safetensors")}],
    ids=lambda settings: next(iter(settings)),
)
def test_what_means_nothing_without_a_lora_is_told(settings):
    Settings().require_no_lora(Path("run"))
    with raises(BadUsage):
        Settings(**settings).require_no_lora(Path("run"))


def test_what_a_lora_asks_for_is_followed_unless_decided():
    asked = SamplingHints(lora_on="positive", guidance=2.0)
    folder = Path("loras")
    assert Settings().following(asked, folder) == Settings(lora_on="positive", guidance=2.0)
    assert Settings(guidance=5.0).following(asked, folder) == Settings(lora_on="positive", guidance=5.0)
    assert Settings(lora_on="both").following(asked, folder) == Settings(lora_on="both")
    assert Settings(lora_on="positive").following(asked, folder).guidance == 2.0
    grey = SamplingHints(negative_lora="grey.safetensors")
    assert Settings().following(grey, folder).negative_lora == folder / "grey.safetensors"
    assert Settings(lora_on="positive").following(grey, folder).negative_lora is None
    plain = Settings().following(SamplingHints(), folder)
    assert not plain.splits_branches and plain.guidance is None
