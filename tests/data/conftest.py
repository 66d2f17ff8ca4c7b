import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def paint() -> Callable[..., Image.Image]:
    """A smooth picture whose four corners differ: red, green, blue, gray (clockwise from top left)."""

    def make(width: int = 48, height: int = 32) -> Image.Image:
        corners = np.array([[[230, 20, 20], [20, 230, 20]], [[120, 120, 120], [20, 20, 230]]], np.uint8)
        return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)

    return make


@pytest.fixture
def jpeg(paint) -> Callable[..., bytes]:
    def make(width: int = 48, height: int = 32, **options) -> bytes:
        file = io.BytesIO()
        paint(width, height).save(file, "JPEG", **{"quality": 95, "subsampling": 0, **options})
        return file.getvalue()

    return make


@pytest.fixture
def fill(jpeg) -> Callable[..., Path]:
    """Write files below a folder: text, bytes, or None for a small JPEG."""

    def write(root: Path, **files: str | bytes | None) -> Path:
        return put(root, files)

    def put(root: Path, files: dict[str, str | bytes | None]) -> Path:
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                content = jpeg(48 + len(name), 32)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write
