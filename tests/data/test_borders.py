import numpy as np
import pytest

from limner.data.borders import borders


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
