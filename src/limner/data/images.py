"""One picture file becomes upright RGB, or an error that names the file and the remedy. Pillow only.

Pillow guesses the format from the content; formats that start other programs (EPS, WMF) are never tried.
"""

import hashlib
import importlib
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from limner.data.formats import FOREIGN, brand, first_bytes, png_damage, profile_name, strange, to_srgb
from limner.errors import BadData
from limner.files import human, sha256_file

MAX_FILE_BYTES = 1 << 30
"""Bytes. Larger files are refused before they are read into memory."""

REGION = ".crop"
"""Ending of the file: ``cat.crop`` beside ``cat.jpg``."""

_NUMBER = re.compile(r"-?\d{1,9}")
_SEPARATORS = re.compile(r"[\s,;\[\]()]+")

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "QOI", "JPEG2000", "ICO")
_PLUG_IN_FORMATS = ("AVIF", "HEIF")
_JPEG = ("JPEG", "MPO")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_QUIET = threading.Lock()

# Pillow's decoders let all of these escape from damaged files; anything else is a bug of ours.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AssertionError,
    BufferError,
    struct.error,
    zlib.error,
    Warning,
)


class BadImage(BadData):
    """A picture that cannot be used: its ``path``, and the ``reason``, which is the message without it."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the file and the reason, which ends in the remedy."""
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


SMALLEST = 16
"""Pixels of a short side below which no resolution would keep an image; bases divide it."""


def small_remedy(side: int) -> str:
    """What to do about an image whose short side, in pixels, is less than half of the smallest resolution."""
    if side < SMALLEST:
        return "Use a larger copy."
    resolution = 2 * side // SMALLEST * SMALLEST
    return f"Use a larger copy, or keep it by data.resolution = {resolution} or data.min_side = {side}."


class Facts(NamedTuple):
    """What is known of a picture file: hash of its bytes (hex), and pixels after EXIF rotation."""

    sha256: str
    width: int
    height: int


class FormatInfo(NamedTuple):
    """How a picture file is made, as far as training has to undo it."""

    mode: str
    """Pillow's name of its samples, such as ``RGB``, ``CMYK``, ``I;16``."""
    turn: int
    """EXIF orientation still to be applied, 1 (upright) to 8."""
    transparent: bool
    moving: bool
    """It has more than one frame, of which the first is read."""
    profile: str
    """Name of its ICC profile where that is not sRGB; ``formats.BROKEN_PROFILE`` where it cannot be used."""
    coarseness: tuple[int, ...]
    """The 64 steps of a JPEG's first quantisation table; empty for other formats."""


def region(text: str, width: int, height: int) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) in pixels of the upright image; None where nothing is said.

    Args:
        text: Four whole numbers, separated by spaces or commas; brackets are passed over.
        width: Of the upright image, in pixels.
        height: The same.

    Raises:
        BadData: Other than four whole numbers, an empty part, or one that leaves the image.
    """
    words = [word for word in _SEPARATORS.split(text) if word]
    if not words:
        return None
    if len(words) != 4 or not all(_NUMBER.fullmatch(word) for word in words):
        raise BadData(
            f"has the crop {text.strip()[:60]!r}. Write four whole numbers: left top right bottom, in pixels."
        )
    left, top, right, bottom = (int(word) for word in words)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadData(
            f"has the crop {left} {top} {right} {bottom}, which is no part of its {width} x {height} pixels. "
            "Write left top right bottom, in pixels of the image as viewers turn it."
        )
    return left, top, right, bottom


def header(path: Path) -> tuple[int, int]:
    """(width, height) after EXIF rotation. Decodes no pixels, except of PNG, whose EXIF may follow them.

    Raises:
        BadImage: The file is missing, damaged at its start, or not a picture.
    """
    with _opened(path, path) as image:
        return _upright(image.size, _turn(image))


def inspect(path: Path, *, verify: bool = True) -> Facts:
    """Hash and size of a picture, having decoded it once so that a run cannot die of it later.

    A JPEG is decoded at an eighth of its size, in gray: about 50 ms for 24 megapixels.

    Args:
        path: The file.
        verify: False trusts everything behind the header: 5 ms for 24 megapixels.

    Raises:
        BadImage: The file cannot be used.
    """
    with _blamed(path):
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadImage(
                path, f"has {human(size)}; at most {human(MAX_FILE_BYTES)} are read. Save it smaller."
            )
        if not verify:
            return Facts(sha256_file(path), *header(path))
        data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    with _opened(path, BytesIO(data)) as image:
        if image.format == "PNG" and (damage := png_damage(data)):
            raise BadImage(path, f"is damaged ({damage}). Copy or download it again.")
        if image.format not in _JPEG:
            return Facts(sha256, *_loaded(image, path, None).size)
        full = _upright(image.size, _turn(image))
        if not _ends(data):
            raise BadImage(path, "stops before the end of its JPEG data. Copy or download it again.")
        image.draft("L", (1, 1))
        image.load()
        return Facts(sha256, *full)


def format_info(path: Path) -> FormatInfo:
    """How a picture file is made; decodes no pixels, except of PNG.

    Raises:
        BadImage: The file is missing, damaged at its start, or not a picture.
    """
    with _opened(path, path) as image:
        tables = image.__dict__.get("quantization") or {}
        profile = profile_name(image)
        return FormatInfo(
            image.mode,
            _turn(image),
            image.has_transparency_data,
            image.format not in _JPEG and _moves(image),
            profile,
            tuple(tables[min(tables)]) if tables else (),
        )


def _moves(image: Image.Image) -> bool:
    with suppress(*_DAMAGE):
        image.seek(1)
        return True
    return False


def read_image(path: Path, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The first frame as upright sRGB: EXIF rotation and ICC profile applied, alpha on white, 16 bits made 8.

    Args:
        path: The file.
        at_least: (width, height), upright. A JPEG may then come out at 1/2, 1/4 or 1/8 of its size, never
            smaller than this in either direction. Against decoding whole and LANCZOS the result keeps
            48 dB PSNR or more (measured on 1/f noise with edges, 24 megapixels to 0.4 .. 6).

    Raises:
        BadImage: The file cannot be used.
    """
    return decode(path, at_least)[0]


def read_alpha(path: Path) -> Image.Image | None:
    """The alpha channel of the first frame, upright, mode L, 0 is transparent; None where there is none.

    Raises:
        BadImage: The file cannot be used.
    """
    with _opened(path, path) as image:
        turn = _turn(image)
        image.load()
        if not image.has_transparency_data:
            return None
        if image.mode.startswith("I"):
            visible = np.asarray(image) != image.info["transparency"]
            alpha = Image.fromarray(visible.astype(np.uint8) * 255)
        else:
            alpha = image.convert("RGBA").getchannel("A")
        return alpha.transpose(_TURNS[turn]) if turn in _TURNS else alpha


def decode(path: Path, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """``read_image``, and the upright size that the file has at full scale."""
    with _opened(path, path) as image:
        full = _upright(image.size, _turn(image))
        return _loaded(image, path, at_least), full


def _loaded(image: Image.Image, path: Path, at_least: tuple[int, int] | None) -> Image.Image:
    turn = _turn(image)
    if at_least is not None and image.format in _JPEG:
        width, height = _upright(at_least, turn)
        image.draft(None, (max(1, width), max(1, height)))
    image.load()
    upright = _rgb(image, path)
    return upright.transpose(_TURNS[turn]) if turn in _TURNS else upright


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise BadImage(path, "has floating point samples, whose white is unknown. Save it with 8 or 16 bits.")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _from_16_bits(image, path)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(_in_srgb(image, "RGBA"))
        return paper.convert("RGB")
    return _in_srgb(image, "RGB")


def _in_srgb(image: Image.Image, mode: str) -> Image.Image:
    """Colours in sRGB; a palette's are looked up first."""
    if "icc_profile" in image.info:
        gray, palette = image.mode in ("1", "L", "LA"), image.mode in ("1", "P", "PA")
        image = to_srgb(image.convert("L" if gray else mode) if palette else image)
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image, path: Path) -> Image.Image:
    # Pillow's own convert() cuts 16-bit gray at 255, which turns photographs white.
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadImage(path, f"has samples from {low} to {high}. Save it with 8 or 16 bits.")
    levels = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    gray = Image.fromarray(levels)
    gray.info.update({key: image.info[key] for key in ("icc_profile",) if key in image.info})
    rgb = _in_srgb(gray, "RGB")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        rgb.paste((255, 255, 255), mask=Image.fromarray(values == clear))
    return rgb


def _turn(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1..8; damaged EXIF counts as upright, as viewers have it."""
    if image.format == "TIFF":  # Pillow turns TIFF itself, its size included
        return 1
    if image.format == "PNG":
        image.load()  # getexif would, and its failure must not pass for damaged EXIF
    with suppress(*_DAMAGE), _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = image.getexif().get(_ORIENTATION)
        return value if isinstance(value, int) and value in _TURNS else 1
    return 1


def _upright(size: tuple[int, int], turn: int) -> tuple[int, int]:
    return (size[1], size[0]) if turn >= 5 else size


def _ends(jpeg: bytes) -> bool:
    """Whether the first scan is followed by an end marker.

    libjpeg paints what is missing in gray: half a download padded with zeros decodes without complaint.
    """
    offset = 2
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != 0xDA:
        offset += 1 if jpeg[offset + 1] == 0xFF else 2 + int.from_bytes(jpeg[offset + 2 : offset + 4])
    return jpeg.find(b"\xff\xd9", offset) >= 0


@contextmanager
def _opened(path: Path, source: Path | IO[bytes]) -> Iterator[Image.Image]:
    with _blamed(path):
        try:
            image = _open(source)
        except UnidentifiedImageError:
            if not brand(first_bytes(path)) or not _plug_in():
                raise
            image = _open(source)
        with image:
            yield image


def _open(source: Path | IO[bytes]) -> Image.Image:
    # Pillow warns of photographs above 89 megapixels and refuses above 179; only the refusal is wanted.
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(source, formats=_formats())


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Turn what Pillow and the disk raise into a ``BadImage`` that names the file."""
    try:
        yield
    except BadData:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(path, "has more than 178 megapixels (or says so). Save it smaller.") from error
    except UnidentifiedImageError as error:
        raise BadImage(path, _unknown(path)) from error
    except FileNotFoundError as error:
        raise BadImage(path, "does not exist. Check the name.") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            reason = f"cannot be opened ({error.strerror}). Check its permissions and the disk."
        else:
            detail = " ".join(str(error).split())[:120] or type(error).__name__
            reason = f"is damaged ({detail}). Copy or download it again, or save it as PNG."
        raise BadImage(path, reason) from error


def _unknown(path: Path) -> str:
    suffix = path.suffix.lower()
    return f"{FOREIGN[suffix]}." if suffix in FOREIGN else strange(path)


@cache
def _plug_in() -> bool:
    """Register the HEIF reader when its package is installed; whether it is."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
        _formats.cache_clear()
        return True
    return False


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS + _PLUG_IN_FORMATS if name in Image.OPEN]
