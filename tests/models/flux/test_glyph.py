from limner.models.flux.glyph import TARGETS, preset
from limner.models.flux.keys import DENOISER


def test_only_a_style_trains_the_modulations_and_an_average():
    style, subject = preset("style", 0), preset("subject", 0)
    assert style["lora.targets"].value == TARGETS and "lora.targets" not in subject
    assert 0 < style["train.ema"].value < 1


def test_its_modulations_are_those_of_the_architecture():
    names = [name for row in DENOISER for name in row.modules]
    assert all(any(name.endswith(ending) for name in names) for ending in TARGETS)


def test_more_images_take_more_steps():
    steps = [preset("face", size)["train.steps"].value for size in range(4)]
    assert steps == sorted(set(steps))
