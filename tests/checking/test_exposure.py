import numpy as np
import pytest

from limner.checking.exposure import fault


def fade(low: float, high: float) -> np.ndarray:
    row = np.linspace(low, high, 256)
    return np.clip(np.broadcast_to(row[None, :, None], (200, 256, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "said"),
    [(fade(0, 255), ""), (fade(0, 40), "dark"), (fade(120, 150), "flat"), (fade(120, 330), "burnt")],
)
def test_faults_of_light(picture, said):
    assert fault(picture) == said


def test_paper_and_velvet_are_none():
    paper = np.full((200, 200, 3), 255, np.uint8)
    paper[50:150, 50:150] = 90
    velvet = np.zeros((200, 200, 3), np.uint8)
    velvet[80:120, 80:120] = 180
    assert fault(paper) == fault(velvet) == ""


def gained(gain: float) -> np.ndarray:
    """A pale, rough thing in the dark."""
    values = np.full((200, 200, 3), 4.0)
    values[60:140, 60:140] = np.random.default_rng(0).normal((150, 130, 170), 20, (80, 80, 3))
    return np.clip(values * gain, 0, 255).astype(np.uint8)


def test_burnt_lights_of_a_subject_in_the_dark_are_told_and_lamps_and_white_things_are_not():
    y, x = np.mgrid[:200, :300]
    far = np.hypot(y - 100, x - 150)
    gray = np.interp(far, [0, 28, 32, 42, 60, 61], [255, 255, 252, 226, 60, 4]).astype(np.uint8)
    assert 0.01 < (gray == 255).mean() < 0.12, "little of the picture, much of the subject"
    assert fault(np.repeat(gray[..., None], 3, axis=2)) == "burnt"
    lamps = np.full((200, 300, 3), 4, np.uint8)
    lamps[60:140, 100:200] = 255
    lamps[60:140, 130:200] = 140
    assert fault(lamps) == ""


def test_pale_colours_that_lost_a_channel_are_burnt_and_vivid_ones_are_not():
    assert fault(gained(1.0)) == "" and fault(gained(1.6)) == "burnt"
    vivid = np.random.default_rng(0).integers(20, 120, (200, 200, 3), dtype=np.uint8)
    vivid[..., 0] = 255
    assert fault(vivid) == ""
    plain = np.full((200, 200, 3), (255, 200, 180), np.uint8)
    plain[:40] = 30
    assert fault(plain) == "", "an illustration's ground"
