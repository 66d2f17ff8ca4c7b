import pytest

from limner.errors import BadUsage
from limner.generation.settings import Settings


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
