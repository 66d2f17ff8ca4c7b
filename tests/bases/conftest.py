import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limner.bases import vocabulary
from limner.bases.art import STYLES, Art, nouns, write_art
from limner.bases.clock import Clock
from limner.bases.demo_sets import NOUNS, TEST_NOUNS
from limner.bases.parts import SIZES, fresh_clip, fresh_t5, fresh_transformer, fresh_vae

CONCEPTS = 6


def discs(names: Sequence[str] = ()) -> Art:
    """One disc or ring per (noun, style): another colour for each noun, another radius for each style."""
    y, x = np.mgrid[:128, :128] - 63.5
    rows = []
    for n, noun in enumerate(names or list(nouns())[:CONCEPTS]):
        for m, style in enumerate(STYLES):
            rgba = np.zeros((128, 128, 4), np.uint8)
            rgba[np.hypot(x, y) < 25 + 5 * m] = (40 * n % 256, (200 - 30 * n) % 256, 90, 255)
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


SIZE = replace(
    SIZES["cpu"], concepts=24, vae_channels=(8, 8, 8, 8), latent_channels=4, blocks=(1, 1), heads=1
)


@pytest.fixture(scope="session")
def broad_art() -> Art:
    """Art of the demo's nouns and of six that a base of 24 nouns does not know."""
    return discs([*TEST_NOUNS, *NOUNS[:4], *NOUNS[4:]])


@pytest.fixture
def tiny_parts(whole_parts: dict[str, Any]) -> dict[str, Any]:
    """An untrained base that paints something: its gates are open, and the VAE is whole."""
    return whole_parts | {"transformer": copy.deepcopy(whole_parts["transformer"])}


@pytest.fixture(scope="session")
def whole_parts() -> dict[str, Any]:
    torch.manual_seed(0)
    parts = {
        "vae": fresh_vae(SIZE),
        "tokenizer": vocabulary.clip_tokenizer(),
        "tokenizer_2": vocabulary.t5_tokenizer(),
        "text_encoder": fresh_clip(),
        "text_encoder_2": fresh_t5(),
        "transformer": fresh_transformer(SIZE),
    }
    for model in parts.values():
        if isinstance(model, torch.nn.Module):
            model.eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        for name, weight in parts["transformer"].named_parameters():
            if not weight.any() and name.endswith("weight"):
                weight.normal_(0, 0.05)
    return parts
