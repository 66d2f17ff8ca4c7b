import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from limner.data.images import BadImage, inspect
from limner.data.png import find_damage


def encoded(picture: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 33)])
def test_a_whole_picture_has_no_flaw(mode, size):
    assert find_damage(encoded(Image.new(mode, size))) == ""


def test_animation_and_many_chunks_have_no_flaw():
    frames = [noise(300, 200), noise(300, 200)]
    assert find_damage(encoded(frames[0], save_all=True, append_images=frames[1:])) == ""
    assert encoded(noise(300, 200)).count(b"IDAT") > 1
    assert find_damage(encoded(noise(300, 200))) == ""


def interlaced(width: int, height: int, *, less: int = 0) -> bytes:
    """Gray, Adam7, made by the specification: rows of seven passes, each with filter 0."""
    starts = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for x, y, dx, dy in starts:
        across = len(range(x, width, dx))
        rows += b"".join(bytes(1 + across) for _ in range(y, height, dy) if across)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    pixels = zlib.compress(rows[: len(rows) - less])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (8, 8), (33, 17)])
def test_interlaced_rows_are_counted(size):
    assert find_damage(interlaced(*size)) == ""
    assert "bytes of pixels" in find_damage(interlaced(*size, less=1))


def test_what_pillow_reads_without_a_word_is_refused(tmp_path):
    smooth = noise(6, 6).resize((48, 48))
    data, quiet = encoded(smooth), 0
    for seed in range(40):
        draw = random.Random(seed)
        keep = draw.randrange(60, len(data) - 40)
        torn = data[:keep] + bytes(len(data) - keep)
        path = tmp_path / f"{seed}.png"
        path.write_bytes(torn)
        with pytest.raises(BadImage, match="is damaged"):
            inspect(path)
        try:
            Image.open(path).load()
        except (OSError, SyntaxError):
            continue
        quiet += 1
    assert quiet > 5  # else Pillow has learnt it, and this module may go
