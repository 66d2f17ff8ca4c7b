import numpy as np
import pytest
from PIL import Image, ImageFilter

from limner.checking.findings import MAX_BLUR, MAX_MOTION_BLUR, MOTION_RATIO
from limner.checking.sharpness import sharpness


def scene(blur: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """Tilted squares of many grays."""
    draw = np.random.default_rng(0)
    page = Image.new("L", (900, 900), 120)
    for _ in range(60):
        side = int(draw.integers(40, 160))
        tile = Image.new("L", (side, side), int(draw.integers(0, 255))).rotate(
            30, expand=True, fillcolor=None
        )
        mask = Image.new("L", (side, side), 255).rotate(30, expand=True, resample=Image.Resampling.BICUBIC)
        page.paste(tile.crop((0, 0, *mask.size)), tuple(draw.integers(0, 800, 2).tolist()), mask)
    small = page.resize((450, 450), Image.Resampling.LANCZOS)
    values = np.asarray(small.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    return np.clip(values + draw.normal(0, noise, values.shape), 0, 255)


def test_sharp_edges_are_told_from_soft_ones():
    assert sharpness(scene()).blur < 1
    for blur in (2.0, 3.0, 4.0):
        assert sharpness(scene(blur)).blur == pytest.approx(blur, rel=0.25)
    assert sharpness(scene(3.0, noise=3)).blur > 1.8, "noise is not sharpness"
    assert sharpness(0.3 * scene(3.0) + 80).blur == pytest.approx(3, rel=0.3), "contrast cancels"


def test_one_sharp_thing_before_a_soft_ground_is_sharp():
    soft = scene(6.0)
    soft[100:350, 100:350] = scene()[100:350, 100:350]
    assert sharpness(soft).blur < 1.2


def test_a_smear_is_told_by_its_direction():
    sharp = scene()
    smeared = sum(np.roll(sharp, at, axis=1) for at in range(24)) / 24
    assert sharpness(sharp).smear < 1.5
    moved, soft = sharpness(smeared), sharpness(scene(4.0))
    assert moved.smear > 1.9 and moved.steady < 0.7 * moved.smear
    assert soft.smear > 1.9 and soft.steady > 0.8 * soft.smear, "out of focus, all directions are alike"


@pytest.mark.parametrize("pixels", [9, 12, 16])
def test_a_short_smear_is_told_from_a_picture_that_is_soft_all_over(pixels):
    """A hand that moved by some ten pixels: what a clock photographed from a tripod that was hit shows."""
    smeared = sharpness(sum(np.roll(scene(), at, axis=1) for at in range(pixels)) / pixels)
    assert smeared.smear > MAX_MOTION_BLUR and smeared.steady < MOTION_RATIO * smeared.smear
    sharp = sharpness(scene())
    assert sharp.smear < MAX_MOTION_BLUR or sharp.steady > MOTION_RATIO * sharp.smear


@pytest.mark.parametrize(("step", "is_smear"), [(20, False), (90, True)])
def test_faint_lines_over_soft_shades_are_no_smear(step, is_smear):
    """The seams of a colour wheel: what holds still while all else is smeared has edges that are no shade."""
    down, across = np.mgrid[:256, :256]
    shades = 100 + 48 * np.sin(across * np.pi / 32) + step * (down // 32 % 2)
    blur, smear, steady = sharpness(shades)
    assert (smear is not None and smear > MAX_MOTION_BLUR and steady < MOTION_RATIO * smear) is is_smear
    assert blur < MAX_BLUR


@pytest.mark.parametrize(("period", "is_smear"), [(64, False), (24, True)])
def test_shades_that_change_fast_are_no_smear_however_strong(period, is_smear):
    """A fade of 7 gray levels a pixel that goes on, and soft edges that do not; sharp seams cross both."""
    down, across = np.mgrid[:256, :256]
    shades = 128 + 7 * period / (2 * np.pi) * np.sin(across * 2 * np.pi / period) + 40 * (down // 32 % 2)
    _, smear, steady = sharpness(shades)
    assert (smear is not None and smear > MAX_MOTION_BLUR and steady < MOTION_RATIO * smear) is is_smear


def test_where_there_is_no_edge_nothing_is_said():
    fade = np.broadcast_to(np.linspace(80, 170, 400, dtype=np.float32), (400, 400))
    assert sharpness(fade) == (None, None, None)
    assert sharpness(np.zeros((8, 8))) == (None, None, None)


def fades() -> dict[str, np.ndarray]:
    down, across = np.mgrid[:512, :512].astype(np.float32)
    radius = np.hypot(across - 256, down - 256)
    return {
        **{f"ramp of {span}": np.clip((across - 100) / span, 0, 1) * 255 for span in (32, 48, 64, 96, 512)},
        "tilted": np.clip((across + down - 300) / 90, 0, 1) * 255,
        **{f"spot of {size}": np.clip(1 - radius / size, 0, 1) * 255 for size in (64, 128, 362)},
        **{f"glow of {size}": 255 * np.exp(-((radius / size) ** 2) / 2) for size in (30, 60)},
        "sun in the sky": np.clip(90 + down / 5 + 200 * np.exp(-((radius / 40) ** 2) / 2), 0, 255),
        **{f"waves of {size}": 128 + 127 * np.sin(across * 2 * np.pi / size) for size in (128, 256)},
        "plasma": 128 + 63 * (np.sin(across * np.pi / 64) + np.sin(down * np.pi / 64 + 1)),
    }


@pytest.mark.parametrize(("name", "fade"), fades().items(), ids=list(fades()))
@pytest.mark.parametrize("grain", [0, 2])
def test_a_fade_is_not_blurred_for_it_has_no_edge(name, fade, grain):
    values = np.round(fade + np.random.default_rng(0).normal(0, grain, fade.shape))
    assert sharpness(np.clip(values, 0, 255).astype(np.uint8)) == (None, None, None)


def colour_wheel(side: int) -> np.ndarray:
    down, across = np.mgrid[:370, :370].astype(np.float32) - 185
    radius, turn = np.hypot(down, across) / 185, np.arctan2(down, across) / (2 * np.pi) % 1
    pixels = np.stack([turn, np.clip(radius * 2, 0, 1), np.clip(2 - radius * 2, 0, 1)], axis=-1)
    wheel = Image.frombytes("HSV", (370, 370), (pixels * 255).astype(np.uint8).tobytes()).convert("RGB")
    return np.asarray(wheel.resize((side, side), Image.Resampling.LANCZOS).convert("L"))


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_a_colour_wheel_is_not_blurred_at_any_size(side):
    blur, smear, steady = sharpness(colour_wheel(side))
    assert (blur or 0) < MAX_BLUR and (steady is None or steady >= min(MAX_BLUR, MOTION_RATIO * smear))


@pytest.mark.parametrize(("side", "blur"), [(64, 3.0), (64, 4.0), (128, 4.0), (256, 6.0)])
def test_a_small_picture_out_of_focus_is_blurred(side, blur):
    small = Image.fromarray(scene().astype(np.uint8)).resize((side, side), Image.Resampling.LANCZOS)
    assert sharpness(np.asarray(small.filter(ImageFilter.GaussianBlur(blur)))).blur > MAX_BLUR


@pytest.mark.parametrize("blur", [2.0, 4.0, 6.0, 8.0])
def test_soft_edges_before_a_fade_are_still_blurred(blur):
    fade = np.linspace(-60, 60, 450, dtype=np.float32)
    assert sharpness(np.clip(scene(blur) * 0.7 + 40 + fade, 0, 255)).blur > MAX_BLUR


def test_of_a_large_picture_the_richest_parts_speak():
    large = np.full((1200, 1200), 128, np.float32)
    large[600:900, 600:900] = scene()[:300, :300]
    assert sharpness(large).blur < 1
