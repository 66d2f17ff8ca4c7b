"""Ways to damage a file, and the files of a training that they are tried on: what ``fuzz.py`` is made of."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Spoil = Callable[[Path, random.Random], None]
"""Damages what is at a path."""


@dataclass(frozen=True)
class Case:
    """One damaged thing and the command that meets it.

    Attributes:
        kind: "image", "caption", "metadata", "recipe", "cache", "checkpoint", "run folder", "lora", "base".
        name: What was done to it.
        target: The file, relative to the field; "CACHE" for an entry of the cache, drawn by the seed.
        spoil: The damage.
        named: One of these words must stand on stderr.
        verb: The command.
    """

    kind: str
    name: str
    target: str
    spoil: Spoil
    named: tuple[str, ...]
    verb: tuple[str, ...] = ("train", "recipe.toml", "--out", "run")


class Payload:
    """What a malicious pickle does. The fuzz fails when the file appears."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        """Make a file when unpickled."""
        return os.mkdir, ("UNPICKLED",)


# whole files ------------------------------------------------------------------------------------------------


def write(data: bytes) -> Spoil:
    """Put ``data`` in its place."""

    def spoil(path: Path, draw: random.Random) -> None:
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return spoil


def remove(path: Path) -> None:
    """Take away whatever is at ``path``."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def flip(path: Path, draw: random.Random) -> None:
    """Turn one bit over."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def noise(path: Path, draw: random.Random) -> None:
    """Overwrite a stretch with random bytes."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    stretch = data[start : start + 200]
    data[start : start + 200] = draw.randbytes(len(stretch))
    path.write_bytes(data)


def cut(path: Path, draw: random.Random) -> None:
    """Keep a random part from the start."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(1, len(data))])


def zeros(path: Path, draw: random.Random) -> None:
    """Zeros from a random place on, as after a crash of the machine."""
    data = path.read_bytes()
    keep = draw.randrange(len(data) // 2)
    path.write_bytes(data[:keep] + bytes(len(data) - keep))


def folder(path: Path, draw: random.Random) -> None:
    """A folder with a file in it."""
    remove(path)
    path.mkdir(parents=True)
    (path / "inside").write_text("x")


def loop(path: Path, draw: random.Random) -> None:
    """A link to itself."""
    remove(path)
    path.symlink_to(path.name)


def dangling(path: Path, draw: random.Random) -> None:
    """A link to nothing."""
    remove(path)
    path.symlink_to("nowhere")


def pipe(path: Path, draw: random.Random) -> None:
    """A named pipe, on which a reader would wait for ever."""
    remove(path)
    os.mkfifo(path)


def locked(path: Path, draw: random.Random) -> None:
    """No permission to read."""
    if not path.exists():
        path.write_text("x")
    path.chmod(0)


def vast(path: Path, draw: random.Random) -> None:
    """Three gigabytes of nothing, in a sparse file."""
    remove(path)
    with path.open("wb") as file:
        file.truncate(3 << 30)


def zipped() -> bytes:
    """A zip file of 40 kB that unpacks to 40 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(40_000_000))
    return file.getvalue()


PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
ALIEN: dict[str, Spoil] = {
    "empty": write(b""),
    "one byte": write(b"\0"),
    "random bytes": lambda path, draw: write(draw.randbytes(5000))(path, draw),
    "zero bytes": write(bytes(5000)),
    "a web page": write(PAGE),
    "a renamed pickle": write(pickle.dumps(Payload())),
    "a zip bomb": write(zipped()),
    "a folder": folder,
    "a link to itself": loop,
    "a link to nothing": dangling,
    "unreadable": locked,
    "three gigabytes": vast,
}
"""What may stand where a file of any kind is expected."""

SPOILS_OF_FILES: dict[str, Spoil] = {
    "a flipped bit": flip,
    "noise": noise,
    "cut short": cut,
    "zeros at the end": zeros,
}


def every(
    kind: str, target: str, names: tuple[str, ...], spoils: dict[str, Spoil], **verb: tuple[str, ...]
) -> Iterator[Case]:
    """A case for each way."""
    for name, spoil in spoils.items():
        yield Case(kind, f"{Path(target).name}: {name}", target, spoil, names, **verb)


# images -----------------------------------------------------------------------------------------------------


def encoded(form: str, **options: object) -> bytes:
    """A good picture of 48 x 48 in some format."""
    picture = Image.effect_noise((48, 48), 60).convert("RGB").resize((48, 48))
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2) -> bytes:
    """A PNG that claims a size and has one row of pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    row = chunk(b"IDAT", zlib.compress(bytes(1 + 3 * 48)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + row + chunk(b"IEND", b"")


def floating() -> bytes:
    """A TIFF of floating point samples that are NaN."""
    file = io.BytesIO()
    Image.new("F", (48, 48), float("nan")).save(file, "TIFF")
    return file.getvalue()


def images() -> Iterator[Case]:
    """Damaged pictures. JPEG, WebP and BMP have no checksum: only damage that shows is tried on them."""
    image_path = "photos/1.png"
    yield from every("image", image_path, ("1.png",), ALIEN | {"a pipe": pipe})
    for turn in range(12):
        for name, spoil in SPOILS_OF_FILES.items():
            yield Case("image", f"PNG: {name}, {turn}", image_path, spoil, ("1.png",))
    claims = {
        "a PNG bomb of 60,000 x 60,000": png(60_000, 60_000),
        "a PNG of 0 x 0": png(0, 0),
        "a PNG of 2 x 2": png(2, 2),
        "a PNG of one row": png(48, 48),
        "a PNG of depth 7": png(48, 48, depth=7),
        "a text bomb in a PNG": png(
            48, 48, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000)))
        ),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "a PostScript program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n(/etc/passwd) run\n",
        "a TIFF of NaN": floating(),
        "a HEIC": b"\0\0\0\x18ftypheic" + bytes(200),
        "a video": b"\0\0\0\x18ftypisom" + bytes(200),
    }
    yield from every("image", image_path, ("1.png",), {name: write(data) for name, data in claims.items()})
    for form in ("JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "QOI", "PPM"):
        data = encoded(form)
        for share in (0.01, 0.3, 0.6):
            archive = write(data[: max(3, int(len(data) * share))])
            yield Case("image", f"{form} cut at {share:.0%}", image_path, archive, ("1.png",))


# captions and metadata --------------------------------------------------------------------------------------

SIDECAR = {
    "Latin-1": write("ein Zünder".encode("latin-1")),
    "UTF-16": write("a thing".encode("utf-16")),
    "NUL bytes": write(b"a thing\0with\0nul"),
    "a surrogate": write(b"a thing \xed\xa0\x80"),
    "two megabytes": write(b"word " * 400_000),
    "9,000 letters": write(b"w" * 9000),
    "a thousand variants": write(b"".join(b"thing %d\n" % n for n in range(1000))),
    "random bytes": lambda path, draw: write(bytes(draw.choices(range(128, 256), k=500)))(path, draw),
}


def captions() -> Iterator[Case]:
    """Damaged sidecars. An empty one counts as none, and plain ASCII is a caption whatever it says."""
    fit = {
        name: spoil for name, spoil in ALIEN.items() if name not in ("empty", "a web page", "random bytes")
    }
    names = ("1.txt", "1.png")
    yield from every("caption", "photos/1.txt", names, fit | SIDECAR | {"a pipe": pipe})


GOOD = '{"file_name": "0.png", "text": "a thing"}\n'
LINES = {
    "not JSON": "{file_name: 1.png}",
    "a list": '["1.png", "a thing"]',
    "a number": "17",
    "null": "null",
    "no file name": '{"text": "a thing"}',
    "a file name that is a number": '{"file_name": 1, "text": "a thing"}',
    "a file name that is null": '{"file_name": null, "text": "a thing"}',
    "an empty file name": '{"file_name": "", "text": "a thing"}',
    "a path that escapes": '{"file_name": "../secret.png", "text": "a thing"}',
    "a path that escapes with backslashes": '{"file_name": "..\\\\secret.png", "text": "a thing"}',
    "an absolute path": '{"file_name": "/etc/passwd", "text": "a thing"}',
    "a Windows path": '{"file_name": "C:\\\\secret.png", "text": "a thing"}',
    "a URL": '{"file_name": "https://example.com/a.png", "text": "a thing"}',
    "a NUL in the name": '{"file_name": "1.png\\u0000", "text": "a thing"}',
    "a surrogate in the name": '{"file_name": "\\ud800.png", "text": "a thing"}',
    "a caption that is a number": '{"file_name": "1.png", "text": 3}',
    "a caption that is an object": '{"file_name": "1.png", "text": {"a": 1}}',
    "a caption that is a list of numbers": '{"file_name": "1.png", "text": [1, 2]}',
    "a caption that is NaN": '{"file_name": "1.png", "text": NaN}',
    "a caption with a surrogate": '{"file_name": "1.png", "text": "\\udfff"}',
    "a caption with NUL": '{"file_name": "1.png", "text": "a\\u0000b"}',
    "a caption of 9,000 letters": json.dumps({"file_name": "1.png", "text": "w" * 9000}),
    "no caption column": '{"file_name": "1.png", "words": "a thing"}',
    "an image that is not there": '{"file_name": "gone.png", "text": "a thing"}',
    "a line twice": '{"file_name": "0.png", "text": "a thing"}',
    "100,000 brackets": "[" * 100_000,
    "a huge number": '{"file_name": 1' + "0" * 5000 + "}",
    "cut short": '{"file_name": "1.png", "te',
}
TABLES = {
    "no header": "0.png,a thing\n",
    "an unknown column": "name,words\n0.png,a thing\n",
    "a column twice": "file_name,text,text\n0.png,a,b\n",
    "an open quote": 'file_name,text\n0.png,"a thing\n',
    "a comma too many": "file_name,text\n0.png,a thing\n1.png,a,b\n",
    "a cell too few": "file_name,text\n0.png,a thing\n1.png\n",
    "a path that escapes": "file_name,text\n0.png,a thing\n../../secret.png,a\n",
    "a huge field": "file_name,text\n0.png,a thing\n1.png," + "w" * 200_000 + "\n",
    "a NUL": "file_name,text\n0.png,a thing\n1.png,a\0b\n",
}


def both(path: Path, draw: random.Random) -> None:
    """Two lists of images in one folder."""
    path.write_text(GOOD)
    path.with_suffix(".csv").write_text("file_name,text\n0.png,a\n")


def metadata() -> Iterator[Case]:
    """Damaged lists of images, in both forms."""
    lines = {
        name: write((GOOD + line + "\n").encode("utf-8", "surrogatepass")) for name, line in LINES.items()
    }
    yield from every(
        "metadata", "photos/metadata.jsonl", ("metadata.jsonl",), ALIEN | lines | {"a pipe": pipe}
    )
    tables = {name: write(text.encode()) for name, text in TABLES.items()}
    alien = {
        name: ALIEN[name]
        for name in ("empty", "random bytes", "zero bytes", "a folder", "a link to itself", "unreadable")
    }
    yield from every("metadata", "photos/metadata.csv", ("metadata.csv",), alien | tables)
    yield Case("metadata", "both files", "photos/metadata.jsonl", both, ("metadata.csv",))
