"""Captions of a metadata file written anew in place: all else in it stays as it was."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limner.data.captions import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    METADATA_BYTES,
    inside,
    read_metadata,
    read_text,
    split,
    variants,
)
from limner.errors import BadData, BadUsage


def with_captions(path: Path, texts: Mapping[str, str]) -> str:
    """The text of a metadata file with other captions.

    A caption goes into the column that training reads; several are a list in JSON, and lines in CSV.

    Args:
        path: ``metadata.jsonl`` or ``metadata.csv``.
        texts: Image, relative to the file's folder -> its captions, as a text file has them; empty: none.

    Raises:
        BadData: The file, or a text, cannot be used.
        BadUsage: An image is in none of its lines.
    """
    read_metadata(path)  # what is wrong with the whole of it is said here
    captions = {file: variants(split(text)) for file, text in texts.items()}
    text = read_text(path, METADATA_BYTES)
    content, names = (_csv if path.suffix == ".csv" else _jsonl)(text, captions)
    if missing := sorted(texts.keys() - names):
        raise BadUsage(f"{path.name} no longer has a line for {missing[0]}. Load the page again.")
    return content


def _jsonl(text: str, captions: Mapping[str, tuple[str, ...]]) -> tuple[str, set[str]]:
    lines, names = text.split("\n"), set()
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        file = _file_of(entry)
        if file is None or file not in captions or file in names:
            continue
        names.add(file)
        key, rows = _caption_column(entry), captions[file]
        entry[key] = list(rows) if len(rows) > 1 or isinstance(entry[key], list) else "".join(rows)
        end = "\r" if line.endswith("\r") else ""
        lines[number] = json.dumps(entry, ensure_ascii=line.isascii() and "\\u" in line) + end
    return "\n".join(lines), names


def _csv(text: str, captions: Mapping[str, tuple[str, ...]]) -> tuple[str, set[str]]:
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    header, names = [name.strip() for name in rows[0]], set()
    for cells in rows[1:]:
        entry = dict(zip(header, cells, strict=False))
        file = _file_of(entry) if len(cells) == len(header) else None
        if file is not None and file in captions and file not in names:
            names.add(file)
            cells[header.index(_caption_column(entry))] = "\n".join(captions[file])
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\r\n" if "\r\n" in text else "\n").writerows(rows)
    return stream.getvalue(), names


def _file_of(entry: Any) -> str | None:
    values = [entry[column] for column in FILE_COLUMNS if column in entry] if isinstance(entry, dict) else []
    file = next((value for value in values if value not in (None, "")), None)
    try:
        return inside(file) if isinstance(file, str) else None
    except BadData:
        return None


def _caption_column(entry: Mapping[str, Any]) -> str:
    """The column that training reads: the first that says something, else the first."""
    columns = [column for column in CAPTION_COLUMNS if column in entry]
    return next((column for column in columns if entry[column] not in (None, "", [])), columns[0])
