from pathlib import Path

import pytest

from limner.errors import BadUsage
from limner.generation.settings import Settings
from limner.lora.metadata import SamplingHints
from messages import raises


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("steps", 0, "--steps is 0"),
        ("images_per_prompt", 0, "--images-per-prompt is 0"),
        ("seed", -1, "--seed is -1"),
        ("width", -16, "--width is -16"),
        ("height", 0, "--height is 0"),
        ("guidance", float("nan"), "--guidance is nan"),
        ("lora_scale", float("inf"), "--lora-scale is inf"),
    ],
)
def test_what_means_nothing_is_refused_by_its_option(name, value, flag):
    with pytest.raises(BadUsage, match=f"^{flag}; it must be"):
        Settings(**{name: value})


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
