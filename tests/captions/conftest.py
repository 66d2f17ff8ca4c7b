"""Pictures without captions, and no key but the tests' own."""

import os

import numpy as np
import pytest
from PIL import Image

from scribe import KEY


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Four noise pictures without captions, one of them large and turned by EXIF."""
    folder = tmp_path / "pets"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    photo = Image.fromarray(draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)).resize((900, 600))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "CAMERA-OF-MINE"
    photo.save(folder / "photo.jpg", exif=exif)
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC", "OPENAI", "OLLAMA", "VLLM")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LIMNER_TEST_KEY", KEY)
    return folder
