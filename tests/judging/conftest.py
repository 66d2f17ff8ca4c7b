"""A run of a few steps on the tiny base, with a LoRA of each of its two checkpoints, and an encoder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders import save_clip
from limner.runs import train
from small import Told, wish


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("clip") / "clip"))


@pytest.fixture(scope="session")
def trained_run(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    recipe = wish(
        tiny_base,
        photos,
        data={"trigger": "zorb", "cache": str(folder / "cache")},
        train={"learning_rate": 1.0},
        sample={"prompts": ("zorb: a",), "steps": 2},
        export={"for": ("diffusers", "kohya")},
    )
    train(recipe, folder / "run", Told())
    return folder / "run"


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))
