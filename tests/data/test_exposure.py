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
