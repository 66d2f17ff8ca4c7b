import numpy as np
import pytest

from limner.checking.borders import borders


def scene(height=300, width=400) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 255, (height, width, 3)).astype(np.uint8)


def test_bars_and_frames_are_measured():
    boxed = scene()
    boxed[:30] = boxed[-24:] = 0
    assert borders(boxed) == pytest.approx((0, 0.1, 0, 0.08))
    boxed = scene()
    boxed[:, :40] = boxed[:, -40:] = 250
    assert borders(boxed) == pytest.approx((0.1, 0, 0.1, 0))
    boxed[:15] = boxed[-15:] = 250
    assert borders(boxed) == pytest.approx((0.1, 0.05, 0.1, 0.05))


def test_a_backdrop_or_a_plain_sky_is_no_bar():
    assert borders(scene()) == (0, 0, 0, 0)
    shot = np.full((300, 400, 3), 255, np.uint8)
    shot[100:200, 150:250] = scene(100, 100)
    assert borders(shot) == (0, 0, 0, 0)
    sky = scene()
    sky[:90] = (90, 140, 220)
    assert borders(sky) == (0, 0, 0, 0)
    assert borders(np.zeros((50, 50, 3), np.uint8)) == (0, 0, 0, 0)


def test_bars_on_a_dark_picture_are_seen_and_a_soft_ground_is_not():
    dark = np.random.default_rng(0).integers(4, 9, (300, 400, 3)).astype(np.uint8)
    dark[:30] = dark[-30:] = 0
    assert borders(dark) == pytest.approx((0, 0.1, 0, 0.1))
    glow = 20 + 60 * np.sin(np.linspace(0, np.pi, 300))
    assert borders(np.broadcast_to(glow[:, None, None], (300, 400, 3)).astype(np.uint8)) == (0, 0, 0, 0)


def test_a_thing_with_straight_sides_on_a_plain_ground_is_no_bar():
    badge = np.full((64, 64, 3), (20, 30, 90), np.uint8)
    badge[11:54, 4:-4] = scene(43, 56)
    badge[6:58, 20:-20] = scene(52, 24)
    assert borders(badge) == (0, 0, 0, 0)
    badge[4:-4, 4:-4] = scene(56, 56)
    assert all(borders(badge)), "the same on all four sides is a frame"
