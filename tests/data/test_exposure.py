import numpy as np
import pytest

from limner.data.exposure import fault


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


def test_pale_colours_that_lost_a_channel_are_burnt_and_vivid_ones_are_not():
    assert fault(gained(1.0)) == "" and fault(gained(1.6)) == "burnt"
    vivid = np.random.default_rng(0).integers(20, 120, (200, 200, 3), dtype=np.uint8)
    vivid[..., 0] = 255
    assert fault(vivid) == ""
    plain = np.full((200, 200, 3), (255, 200, 180), np.uint8)
    plain[:40] = 30
    assert fault(plain) == "", "an illustration's ground"
