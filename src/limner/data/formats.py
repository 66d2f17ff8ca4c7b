"""Which files are pictures: told by the ending of the name, or by the first bytes where that says nothing."""

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp")
    + (".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".jp2", ".j2k", ".jpx", ".ico")
    + (".avif", ".avifs", ".heic", ".heif", ".hif")
)
"""File name endings, in lower case, that are read as pictures."""

_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw")
_GRAPHICS = (".psd", ".xcf", ".kra", ".svg", ".eps", ".ai", ".jxl", ".exr", ".hdr", ".tga", ".pcx", ".dds")
_GRAPHICS += (".icns",)
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
