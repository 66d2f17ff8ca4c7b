"""Whether a PNG is whole. Pillow stops reading once it has all rows, so it never meets the checksums."""

import zlib
from collections.abc import Iterator

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> samples per pixel (PNG specification, third edition, section 11.2.1)."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, columns apart, rows apart (section 8.2)."""

AT_ONCE = 1 << 20
"""Bytes unpacked at a time."""


def find_damage(data: bytes) -> str:
    """What is wrong with the pixels of a PNG: a checksum, or fewer rows than it claims; "" when nothing is.

    Costs half of decoding it. The memory that it takes does not grow with the picture.

    Args:
        data: A file that Pillow opens as PNG.
    """
    total = rows = 0
    stream = zlib.decompressobj()
    for kind, body, whole in _chunks(data):
        if kind == b"IHDR":
            total = _size(body)
        if kind == b"IDAT":
            if not whole:
                return "wrong checksum"
            try:
                while body and rows < total:
                    rows += len(stream.decompress(body, AT_ONCE))
                    body = stream.unconsumed_tail
            except zlib.error as error:
                return str(error)
    return "" if rows >= total else f"{rows} of {total} bytes of pixels"


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(kind, body, whether the checksum is right) of every chunk."""
    offset = 8
    while offset + 12 <= len(data):
        end = offset + 8 + int.from_bytes(data[offset : offset + 4])
        right = zlib.crc32(data[offset + 4 : end]) == int.from_bytes(data[end : end + 4])
        yield data[offset + 4 : offset + 8], data[offset + 8 : end], right
        offset = end + 4


def _size(header: bytes) -> int:
    """Bytes of all rows, each with its filter byte, before packing."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    depth, color, interlaced = header[8], header[9], header[12]
    bits = depth * SAMPLES[color]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
