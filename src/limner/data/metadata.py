"""metadata.jsonl and metadata.csv, of imagefolder and DiffSynth, become rows. Nothing in them is trusted."""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from limner.data.captions import read_text, variants
from limner.errors import BadData

NAMES = ("metadata.jsonl", "metadata.csv")
"""Files that list images and captions."""

UNSUPPORTED_NAMES = ("metadata.parquet", "metadata.json")
"""Files that do so elsewhere, and that Limner does not read."""

FILE_COLUMNS = ("file_name", "image", "video")
CAPTION_COLUMNS = ("text", "caption", "prompt")
CROP_COLUMN = "crop"
"""Optional: the part of the image that counts, see :mod:`limner.data.region`."""

_BYTES_AT_MOST = 1 << 28


class MetadataRow(NamedTuple):
    """One usable line: where it stands, the image relative to the metadata's folder ("/"), its captions."""

    line: int
    file: str
    captions: tuple[str, ...]
    crop: str = ""
    """As written: four numbers, or nothing."""


class BrokenRow(NamedTuple):
    """One line that cannot be used, and why."""

    line: int
    reason: str


def read_metadata(path: Path) -> list[MetadataRow | BrokenRow]:
    """The lines of a metadata file in their order; the captions of a row may be none.

    A caption is the first present of ``text``, ``caption``, ``prompt``: a string or null, in JSON also a list
    of strings, its variants. A second line for an image is broken: it would be unclear which one counts.

    Raises:
        BadData: The file as a whole cannot be read: encoding, size, columns, CSV quoting.
    """
    try:
        text = read_text(path, _BYTES_AT_MOST)
    except BadData as error:
        raise BadData(f"{path.parent}: {error}") from error
    rows: list[MetadataRow | BrokenRow] = []
    first: dict[str, int] = {}
    for line, entry in _csv(path, text) if path.suffix == ".csv" else _jsonl(text):
        try:
            if isinstance(entry, BadData):
                raise entry
            row = _row(line, entry)
            if row.file in first:
                raise BadData(f"names {row.file} again, after line {first[row.file]}. Remove one of the two.")
        except BadData as error:
            rows.append(BrokenRow(line, f"line {line}: {error}"))
        else:
            first[row.file] = line
            rows.append(row)
    return rows


def inside(name: str) -> str:
    """``name`` as a normal path relative to the metadata's folder, with "/".

    Raises:
        BadData: It is empty, absolute, or leads out of the folder.
    """
    flat = name.strip().replace("\\", "/")
    if not flat or "\0" in flat or any("\ud800" <= letter <= "\udfff" for letter in flat):
        raise BadData(f"the file name {name[:60]!r} is none. Write it relative to the metadata file.")
    if flat.startswith("/") or re.match(r"[A-Za-z]:|\w+://", flat):
        raise BadData(f"{name[:120]!r} is not relative. Write it relative to the metadata file.")
    flat = posixpath.normpath(flat)
    if flat == ".." or flat.startswith("../"):
        raise BadData(
            f"{name[:120]!r} leads out of the folder, which is refused. Move the image into the folder."
        )
    return flat


def _row(line: int, entry: Any) -> MetadataRow:
    if not isinstance(entry, dict):
        raise BadData(
            f'is {type(entry).__name__}, not an object such as {{"file_name": "a.jpg", "text": "a cat"}}.'
        )
    file = _first(entry, FILE_COLUMNS)
    if not isinstance(file, str):
        raise BadData(f"file_name is {file!r:.60}, not a string. Write it in quotes.")
    name = inside(file)
    caption = _first(entry, CAPTION_COLUMNS)
    texts = caption if isinstance(caption, list) else [] if caption is None else [caption]
    if not all(isinstance(text, str) for text in texts):
        raise BadData(f"the caption of {name} is {caption!r:.60}, not a string. Write it in quotes.")
    return MetadataRow(line, name, variants(texts), _crop(entry.get(CROP_COLUMN)))


def _crop(value: Any) -> str:
    """As a sidecar would have it; what it means is told where it is used."""
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _first(entry: dict[str, Any], columns: tuple[str, ...]) -> Any:
    for column in columns:
        if column in entry:
            return entry[column]
    raise BadData(
        f"has none of {', '.join(columns)}, only {', '.join(map(repr, entry))[:120] or 'nothing'}. Add one."
    )


def _jsonl(text: str) -> Iterator[tuple[int, Any]]:
    for line, piece in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 inside a caption
        if not piece.strip():
            continue
        try:
            yield line, json.loads(piece)
        except (ValueError, RecursionError) as error:
            detail = str(error).split(":")[0][:80]
            yield line, BadData(f"is not JSON ({detail}). Write one object a line, or remove the line.")


def _csv(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for columns in (FILE_COLUMNS, CAPTION_COLUMNS):
            if not set(columns) & set(header):
                raise BadData(
                    f"{path} has no column {' or '.join(columns)}, only {', '.join(header)[:120]!r}. "
                    "Name the columns there, separated by commas."
                )
        if len(set(header)) < len(header):
            raise BadData(f"{path} has two columns of one name in {', '.join(header)[:120]!r}. Rename one.")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells, not {len(header)}. Put captions with commas in quotes."
                yield reader.line_num, BadData(problem)
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadData(
            f"{path} breaks off at line {reader.line_num} ({error}). Check the quotes there."
        ) from error
