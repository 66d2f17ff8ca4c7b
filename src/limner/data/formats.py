"""Files of pictures: which they are, whether a PNG is whole, and what their colours mean.

A picture is told by the ending of its name, or by the first bytes where that says nothing. Pillow stops
reading a PNG once it has all rows, so it never meets the checksums. Colours are told in sRGB, as the file's
ICC profile means them; what has no profile is sRGB already.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp")
    + (".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".jp2", ".j2k", ".jpx", ".ico")
    + (".avif", ".avifs", ".heic", ".heif", ".hif")
)
"""File name endings, in lower case, that are read as pictures."""

_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
_GRAPHICS = (".psd", ".xcf", ".kra", ".svg", ".eps", ".ai", ".jxl", ".exr", ".hdr", ".tga", ".pcx", ".dds")
_GRAPHICS += (".icns", ".jxr", ".wdp", ".hdp", ".jls", ".svgz", ".cur", ".wmf", ".emf", ".flif")
_MOVING = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg")

FOREIGN = {
    **dict.fromkeys(_RAW, "is a camera's raw file. Develop it and export a JPEG or PNG"),
    **dict.fromkeys(_GRAPHICS, "is in a format that Limner does not read. Export it as PNG"),
    **dict.fromkeys(_MOVING, "is a video. Export the frames that you want as PNG"),
}
"""Endings of pictures that cannot be read, with what to do about them."""

_UNPACK = "Unpack it, and name the folder of images"
_EXPORT = "Save its pictures as files: datasets can write them, with metadata.jsonl beside"
ARCHIVES = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".bz2", ".xz", ".zst"), _UNPACK),
    **dict.fromkeys((".parquet", ".arrow", ".tfrecord", ".h5", ".hdf5", ".mdb", ".lance"), _EXPORT),
}
"""Endings of files that may hold pictures, and how to get at them."""

_DOWNLOADS = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".tmp")
_LONGER_SUFFIX = re.compile(rf"\.(?:{'|'.join(s[1:] for s in sorted(SUFFIXES))})[^a-z0-9.]", re.IGNORECASE)
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"qoif": "QOI",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}
_HUB_STORE = "blobs"
"""Where a hub's cache keeps the contents of files, whose names are links elsewhere."""
_BRANDS = (b"hei", b"hev", b"mif", b"msf", b"avi")


def brand(head: bytes) -> str:
    """The brand of an ISO media file that holds still pictures, such as ``heic`` or ``avif``; else empty.

    Args:
        head: At least the first 12 bytes.
    """
    return head[8:12].decode("latin-1") if head[4:8] == b"ftyp" and head[8:11] in _BRANDS else ""


def first_bytes(path: Path, count: int = 64) -> bytes:
    """The start of a file; empty where it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(count)
    return b""


def format_name(head: bytes) -> str:
    """The format that the first bytes of a file are of; empty where they are of no picture."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if name := brand(head):
        return "AVIF" if name.startswith("avi") else "HEIC"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


def odd_image(path: Path) -> tuple[bool, str]:
    """Whether a file whose ending is not among ``SUFFIXES`` is read as a picture.

    It is where the ending has something behind it (``.jpg_large``, ``.png!large``), and where there is none
    and the first bytes are a picture's.

    Returns:
        Whether it is read, and why a picture is not, with the remedy; nothing of what is no picture.
    """
    suffix = PurePosixPath(path.name).suffix
    if _LONGER_SUFFIX.match(suffix):
        return True, ""
    name = format_name(first_bytes(path))
    if not name or (not suffix and path.parent.name == _HUB_STORE):
        return False, ""
    if suffix.lower() in _DOWNLOADS:
        return False, f"is a download that was not finished ({name}). Download it again."
    if not suffix:
        return True, ""
    return False, f"is a picture ({name}) with the ending {suffix[:20]}, which is not read. Rename it."


_VIEWER = "Open it in a viewer and save it as PNG or JPEG."
_STRANGERS = {
    (b"version https://git-lfs",): "is a pointer of Git LFS, not the picture. Fetch it: git lfs pull",
    (b"<!doctype", b"<html", b"<?xml", b"{"): (
        "is a web page or a server's answer, not a picture. Download it again."
    ),
    (b"../", b"./"): "is the path of a link, not the picture. Copy the folder with its links followed.",
    (b"bplist00",): "is a placeholder of iCloud, not the picture. Download it from there first.",
    (b"\x1f\x8b", b"pk\3\4"): "is packed (gzip or zip). Unpack it.",
}


def strange(path: Path) -> str:
    """What a file with a picture's name is instead of one, with the remedy."""
    head = first_bytes(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "is empty. Copy or download it again."
    if brand(head).startswith("avi"):
        return "is AVIF, which this Pillow cannot read. Run: pip install --upgrade pillow"
    if brand(head):
        return "is HEIC, which needs a plug-in. Run: pip install 'limner[heif]'"
    if name := format_name(head):
        return f"is a {name} of a kind that Limner cannot read. {_VIEWER}"
    if format_name(text):
        return f"has bytes before the picture. {_VIEWER}"
    strangers = (reason for starts, reason in _STRANGERS.items() if text.lower().startswith(starts))
    return next(strangers, f"is not a picture that Limner can read. {_VIEWER}")


PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> samples per pixel (PNG specification, third edition, section 11.2.1)."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, columns apart, rows apart (section 8.2)."""

AT_ONCE = 1 << 20
"""Bytes unpacked at a time."""


def png_damage(data: bytes) -> str:
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
    bits = depth * PNG_SAMPLES[color]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


BROKEN_PROFILE: Literal["damaged"] = "damaged"
"""What a profile is called that cannot be used."""
SAME_LEVELS = 2
"""Levels of 255 by which a profile may move a colour and still be sRGB: its makers round differently."""

_MODES = ("RGB", "L", "CMYK")
_SAMPLES = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "LA": "L", "1": "L", "I;16": "L", "I;16B": "L", "I": "L"}


def to_srgb(image: Image.Image) -> Image.Image:
    """An 8-bit image with its colours in sRGB, and without its profile.

    Perceptual intent, as browsers show pictures. A profile that cannot be read, or is of another kind of
    samples than the image, is passed over as viewers do; ``profile_name`` calls it damaged.

    Args:
        image: RGB, RGBA, L, LA or CMYK samples, decoded, at any size; others come back as they are.

    Returns:
        The same image where it has no profile, or one that is sRGB; else RGB, or RGBA where it has alpha.
    """
    profile, mode = _profile(image), image.mode.removesuffix("A")
    transform = _transform(profile, mode) if profile and mode in _MODES else ""
    if isinstance(transform, str):
        return image
    result = ImageCms.applyTransform(image.convert(mode), transform)
    assert result is not None  # only in place is there no result
    if mode != image.mode:
        result.putalpha(image.getchannel("A"))
    result.info.pop("icc_profile", None)  # a writer would put it into the file
    return result


def profile_name(image: Image.Image) -> str:
    """What the profile of an image calls itself; ``BROKEN_PROFILE`` where it cannot be used.

    Empty where there is none, or one that is sRGB by what it does to colours.
    """
    profile, mode = _profile(image), _SAMPLES.get(image.mode, image.mode)
    transform = _transform(profile, mode) if profile and mode in _MODES else ""
    if isinstance(transform, str):
        return transform
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    return " ".join(description.split())[:60] or "no name"


def _profile(image: Image.Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | Literal["", "damaged"]:
    """The way to sRGB, which threads may share; empty where the profile is sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return BROKEN_PROFILE
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        samples = levels[None]
        plain = np.stack([samples] * 3, axis=-1)
    else:
        plain = samples = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    result = ImageCms.applyTransform(Image.fromarray(samples), transform)
    moves = np.abs(np.asarray(result).astype(int) - plain).max()
    return transform if moves > SAME_LEVELS else ""
