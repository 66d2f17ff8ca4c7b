"""The captions of a set as a table that any editor or spreadsheet opens, and reading it back.

Tab-separated: the image, its caption, a sign of the caption as it was, a note. Variants are further lines.
"""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from limner.captions.provenance import hash_of
from limner.data.captions import variants
from limner.errors import BadData

NAME = "captions.tsv"
COLUMNS = ("image", "caption", "was", "note")
HEAD = (
    "# Edit the captions, save, and run: limner caption FOLDER --apply",
    "# A further line with the same image is a variant. A line that is removed leaves the image as it is.",
)

FORMULA = re.compile(r"'*[=+\-@]")
"""How cells begin that a spreadsheet computes; or those that were escaped, once or more often."""


@dataclass(frozen=True)
class TableRow:
    """One image in the table."""

    file: str
    text: str
    """Of its text file; empty when it has none."""
    note: str = ""


@dataclass(frozen=True)
class CaptionEdit:
    """What a person made of one image's captions."""

    file: str
    captions: tuple[str, ...]
    was: str
    """Sign of the text that the table was made from."""


def sign(text: str) -> str:
    """Eight digits that tell whether a text is still the same."""
    return hash_of(text)[:8]


def table(lines: list[TableRow]) -> str:
    """The table as text."""
    out = io.StringIO()
    out.write("".join(f"{line}\n" for line in HEAD))
    writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(COLUMNS)
    for line in lines:
        for text in _lines(line.text) or [""]:
            writer.writerow(map(escaped, (line.file, text, sign(line.text), line.note)))
    return out.getvalue()


def escaped(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: ``escaped("=1+1") == "'=1+1"``.

    Names and captions may be a stranger's, and a formula can reach the network or run a program.
    """
    return f"'{cell}" if FORMULA.match(cell) else cell


def unescaped(cell: str) -> str:
    """What :func:`escaped` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def changes(text: str, texts: Mapping[str, str]) -> list[CaptionEdit]:
    """What differs between an edited table and the folder.

    Args:
        text: The table.
        texts: Image -> its text file's text as it is now, empty where there is none.

    Raises:
        BadData: The table is broken, names an image that is not there, or a caption has changed since.
    """
    captions_of: dict[str, list[str]] = {}
    was: dict[str, str] = {}
    for number, cells in _rows(text):
        file, caption, signature = (unescaped(cell.strip()) for cell in cells[:3])
        if file not in texts:
            raise BadData(
                f"Line {number} of the table names {file!r}, which is no image here. Correct the name."
            )
        if was.setdefault(file, signature) != signature:
            raise BadData(
                f"Line {number} of the table has another sign than the line above. Restore column 3."
            )
        captions_of.setdefault(file, []).append(caption)
    edits = []
    for file, lines in captions_of.items():
        try:
            captions = variants(lines)
        except BadData as error:
            raise BadData(f"The table, {file}: {error}") from error
        if captions == tuple(_lines(texts[file])):
            continue
        if sign(texts[file]) != was[file]:
            raise BadData(
                f"The caption of {file} has changed since the table was made. Make a new one: --review."
            )
        if not captions:
            raise BadData(
                f"The table has no caption for {file}. Write one, or remove the line and delete its .txt."
            )
        edits.append(CaptionEdit(file, captions, was[file]))
    return edits


def _lines(text: str) -> list[str]:
    lines = (" ".join(line.split()) for line in text.replace("\r", "\n").split("\n"))
    return list(dict.fromkeys(line for line in lines if line))


def _rows(text: str) -> list[tuple[int, list[str]]]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    number_lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    while number_lines and number_lines[0][1].lstrip('"').startswith("#"):
        number_lines.pop(0)
    try:
        cells = list(csv.reader([line for _, line in number_lines], delimiter="\t", strict=True))
    except csv.Error as error:
        raise BadData(f"The table cannot be read ({error}). Check the quotes in it.") from error
    if not cells or [cell.strip() for cell in cells[0][:3]] != list(COLUMNS[:3]):
        raise BadData(f"The table must begin with the columns {', '.join(COLUMNS)}, separated by tabs.")
    if len(cells) != len(number_lines):
        raise BadData("A caption in the table goes over several lines. Write each on one line.")
    for (number, _), row in zip(number_lines, cells, strict=True):
        if len(row) < 3:
            raise BadData(
                f"Line {number} of the table has {len(row)} columns; image, caption and was are needed."
            )
    return [(number, row) for (number, _), row in zip(number_lines[1:], cells[1:], strict=True)]
