import pytest
import torch

from limner.bases.art import Art
from limner.bases.captions import COLOURS, GROUNDS, LOOKS, Appearance, choose
from limner.bases.latents import drawings
from limner.bases.looks import hsv, recolour, render, transform


@pytest.fixture(scope="module")
def disc(art: Art) -> torch.Tensor:
    return drawings(art, 64)[:1]


def test_a_plain_choice_is_the_drawing_on_its_ground(disc: torch.Tensor) -> None:
    (picture,) = render(disc, [Appearance(scale=1.0, ground="maroon")])
    expected = torch.tensor(GROUNDS["maroon"]) / 255
    assert torch.allclose(picture[:, 0, 0], expected)
    assert torch.allclose(picture[:, 32, 32], disc[0, :3, 32, 32], atol=1e-5)


@pytest.mark.parametrize("look", [*LOOKS, "blueprint"])
@pytest.mark.parametrize("ground", ["white", "black"])
def test_looks_are_pictures_in_range(disc: torch.Tensor, look: str, ground: str) -> None:
    (picture,) = render(disc, [Appearance(look=look, ground=ground)])
    assert picture.shape == (3, 64, 64)
    assert torch.isfinite(picture).all()
    assert 0 <= picture.min() <= picture.max() <= 1
    assert (picture[:, 32, 10:54] - picture[:, 2, 2, None]).abs().max() > 0.1  # something is to be seen


def test_blueprint_is_dark_blue_and_light(disc: torch.Tensor) -> None:
    (picture,) = render(disc, [Appearance(look="blueprint")])
    red, _, blue = picture[:, 2, 2]
    assert blue > 0.3 > red


def test_a_batch_is_the_same_as_one_by_one(art: Art) -> None:
    some = drawings(art, 64)[:24]
    choices = [choose(seed) for seed in range(24)]
    alone = torch.cat([render(each[None], [choice]) for each, choice in zip(some, choices, strict=True)])
    assert torch.allclose(render(some, choices), alone, atol=1e-6)


def seen(drawings: torch.Tensor) -> torch.Tensor:
    return drawings[:, :3] * drawings[:, 3:]


def test_placing_moves_by_half_pictures_and_flips() -> None:
    drawing = torch.zeros(1, 4, 64, 64)
    drawing[:, :, 28:36, 8:16] = 1
    flipped = transform(drawing, [Appearance(scale=1.0, flip=True)])
    assert torch.allclose(seen(flipped), seen(drawing).flip(-1), atol=1e-4)
    moved = transform(drawing, [Appearance(scale=1.0, shift=(0.5, 0.0))])
    assert torch.allclose(seen(moved)[..., 24:32], seen(drawing)[..., 8:16], atol=1e-4)
    small = transform(drawing, [Appearance(scale=0.5)])
    assert small[:, 3].sum() == pytest.approx(float(drawing[:, 3].sum()) / 4, rel=0.15)


@pytest.mark.parametrize("name", COLOURS)
def test_recolouring_sets_the_hue_and_none_leaves_it(name: str) -> None:
    rgb = torch.rand(2, 3, 8, 8)
    out = recolour(rgb, torch.tensor([COLOURS[name], -1.0]))
    pure = hsv(torch.tensor([[[[COLOURS[name]]]]]), torch.ones(1), torch.ones(1))[0, :, 0, 0]
    assert out[0].mean((1, 2)).argmax() == pure.argmax() or name in ("yellow", "teal", "purple", "pink")
    assert torch.equal(out[1], rgb[1])
