from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from limner.bases.art import STYLES, Art, nouns, write_art
from limner.bases.clock import Clock

CONCEPTS = 6


def discs() -> Art:
    """One disc or ring per (noun, style): another colour for each noun, another radius for each style."""
    y, x = np.mgrid[:128, :128] - 63.5
    rows = []
    for n, noun in enumerate(list(nouns())[:CONCEPTS]):
        for m, style in enumerate(STYLES):
            rgba = np.zeros((128, 128, 4), np.uint8)
            rgba[np.hypot(x, y) < 25 + 5 * m] = (40 * n, 200 - 30 * n, 90, 255)
            rows.append((rgba, style, noun))
    pictures, styles, concepts = zip(*rows, strict=True)
    return Art(np.stack(pictures), np.array(styles), np.array(concepts))


@pytest.fixture(scope="session")
def art() -> Art:
    return discs()


@pytest.fixture(scope="session")
def art_file(tmp_path_factory: pytest.TempPathFactory, art: Art) -> Path:
    path = tmp_path_factory.mktemp("art") / "art.npz"
    write_art(path, art)
    return path


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the time that a training has be gone after so many looks at its clock, on any machine."""

    def set_to(looks: int) -> None:
        so_far = count(1)
        monkeypatch.setattr(Clock, "seconds", lambda self: self.budget * next(so_far) / looks)

    return set_to
