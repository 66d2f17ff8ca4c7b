import pytest
import torch

from limner.bases.style_kinds import (
    COLOURINGS,
    FINISHES,
    SHAPES,
    as_colour,
    blur,
    channel_mix,
    edge_lines,
    grey,
    ground,
    grow,
    pattern,
    ramp,
)

U = (0.3, 0.7, 0.2)
C = [as_colour((n / 8, 1 - n / 8, (n * 3 % 8) / 8)) for n in range(8)]
RGB = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_grey_weighs_channels_as_television_did():
    assert grey(as_colour((1, 0, 0))).item() == pytest.approx(0.3)
    assert grey(torch.ones(1, 3, 1, 1)).item() == pytest.approx(1)


def test_a_blur_keeps_what_is_flat_and_grow_widens():
    flat = torch.full((1, 1, 8, 8), 0.4)
    assert blur(flat, 5).allclose(flat)
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    assert grow(dot, 3).sum() == 9
    assert blur(dot, 3).sum() == pytest.approx(1, abs=1e-5)


def test_edges_are_where_the_cover_ends():
    alpha = torch.zeros(1, 1, 16, 16)
    alpha[..., 4:12, 4:12] = 1
    lines = edge_lines(torch.zeros(1, 3, 16, 16), alpha)
    assert lines[..., 4, 8] > 0.5 and lines[..., 8, 8] == 0 and lines[..., 1, 1] == 0


def test_a_ramp_goes_once_along_its_angle():
    assert ramp(5, 0.0, 2.0)[0, 0, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", ["stripes", "checks", "dots", "weave", "grain", "patches", "noise"])
def test_patterns_vary_within_bounds(kind):
    cover = pattern(kind, 32, U, noise())
    assert cover.shape == (1, 1, 32, 32) and cover.std() > 0.05
    assert cover.min() >= 0 and cover.max() <= 1
    assert torch.equal(cover, pattern(kind, 32, U, noise()))


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_bend_drawings_and_keep_premultiplied_colours_below_the_cover(kind):
    solid = torch.zeros(1, 4, 32, 32)
    solid[..., 8:24, 10:22] = torch.tensor([0.2, 0.5, 0.9, 1.0]).view(1, 4, 1, 1)
    bent = SHAPES[kind](solid, U)
    assert bent.shape == solid.shape and (bent - solid).abs().max() > 0.1
    assert (bent[:, :3] <= bent[:, 3:] + 1e-5).all()


@pytest.mark.parametrize("kind", COLOURINGS)
def test_colourings_change_colours_within_bounds(kind):
    for u in (U[:2], (0.9, 0.2)):
        result = COLOURINGS[kind](RGB, C, u)
        assert result.shape == RGB.shape and (result - RGB).abs().max() > 0.05
        assert result.min() >= 0 and result.max() <= 1


def test_a_palette_has_no_other_colours():
    table = {tuple(c.flatten().tolist()) for c in C[:5]}
    for u in ((0.9, 0.2), (0.9, 0.8)):
        result = COLOURINGS["palette"](RGB, C, u)
        assert {tuple(pixel.tolist()) for pixel in result.permute(0, 2, 3, 1).reshape(-1, 3)} <= table


def test_a_gradient_runs_from_one_colour_to_another():
    dark, light = (COLOURINGS["gradient"](torch.full((1, 3, 1, 1), v), C, (0.1, 0)) for v in (0.0, 1.0))
    assert torch.allclose(dark, C[0]) and torch.allclose(light, C[1], atol=1e-6)


def test_channels_trade_places():
    assert torch.equal(channel_mix(RGB, [0.0] * 9, (0.9, 0.99)), RGB[:, [2, 1, 0]])
    assert channel_mix(RGB, [0.0] * 9, (0.1, 0.5)).std(1).max() < 1e-5


@pytest.mark.parametrize(
    "kind", ["white", "plain", "gradient", "radial", "stripes", "checks", "dots", "frame", "noise"]
)
def test_grounds_are_whole_images(kind):
    image = ground(kind, 32, C, U, noise())
    assert image.shape == (1, 3, 32, 32) and image.min() >= 0 and image.max() <= 1
    assert (image.flatten(2).std(2).max() > 0.01) == (kind not in ("white", "plain"))


@pytest.mark.parametrize("kind", FINISHES)
def test_finishes_change_images_within_bounds(kind):
    result = FINISHES[kind](RGB, C, U[:2])
    assert result.shape == RGB.shape and (result - RGB).abs().max() > 0.02
    assert result.min() >= 0 and result.max() <= 1.3
