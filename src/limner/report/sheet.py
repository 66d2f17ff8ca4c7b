"""Contact sheets: pictures in rows and columns with their labels, as one picture of bounded size."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from limner.files import atomic_write
from limner.report.pairs import Pairs
from limner.run_folder import RunDir

PAPER, INK, FAINT, EMPTY = (255, 255, 255), (28, 28, 30), (120, 120, 126), (240, 240, 242)
CELL = (128, 256)
"""The least and largest side of a picture on the sheet, in pixels; small ones are enlarged to the least."""
LARGEST = 6000
"""The largest side of a sheet, in pixels."""
GAP, MARGIN, LINES = 8, 20, 6
NOTES = 5
"""Lines under a picture, at most."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Column:
    """Pictures that stand in one column of a sheet or a report."""

    steps: tuple[int, ...]
    """After how many steps they were generated, ascending."""
    images: Mapping[int, Path]
    """Prompt index -> picture."""

    @property
    def name(self) -> str:
        """``base``, ``step 240``, or ``step 240, 280``."""
        return "base" if self.steps == (0,) else f"step {', '.join(map(str, self.steps))}"


def columns(samples: Mapping[int, Mapping[int, Path]]) -> list[Column]:
    """The columns for pictures by step and prompt index, steps ascending.

    Steps that share no prompt share a column: runs of unequal lengths end side by side.
    """
    result: list[Column] = []
    for step, images in sorted(samples.items()):
        if result and result[-1].images.keys().isdisjoint(images):
            result[-1] = Column((*result[-1].steps, step), {**result[-1].images, **images})
        else:
            result.append(Column((step,), images))
    return result


def sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    cell: int | None = None,
    notes: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Lay pictures out: a row for each prompt, a column for each step.

    Args:
        rows: Pictures of any size and mode, None where there is none; rows may be short.
        row_labels: One for each row, wrapped to at most 6 lines; all empty: no room is kept for them.
        column_labels: One for each column; all empty: a short row ends where its pictures end.
        cell: Side in pixels of the square that each picture is fitted into, never cropped; None = the
            largest picture's, within 128 to 256. Reduced where the sheet would pass 6000 pixels.
        notes: A text under each picture, row by row, wrapped to at most 5 lines, the rest left out; none: no
            room is kept for them.

    Returns:
        An RGB picture of at most 6000 x 6000 pixels. What did not fit in is named in the last line.

    Raises:
        ValueError: The labels do not match the rows or columns.
    """
    columns = _columns(rows, row_labels, column_labels)
    side = _side(rows, cell, max(columns, len(rows)))
    font = ImageFont.load_default(max(11, side / 12))
    line = _height(font)
    label = max(120, min(280, side * 3 // 2)) if any(row_labels) else 0
    head = MARGIN + len(_widest([_wrap(text, font, side) for text in column_labels])) * line + GAP
    small = ImageFont.load_default(max(10, side / 16))
    foot = NOTES * _height(small) + GAP if notes else 0
    step = side + GAP, side + foot + GAP
    room = (LARGEST - MARGIN - label) // step[0], (LARGEST - head - MARGIN - line) // step[1]
    visible = [row[: room[0]] for row in rows[: room[1]]]
    wide, high = min(columns, room[0]), len(visible)
    left_out = len(rows) - high, columns - wide
    size = (
        2 * MARGIN + label + wide * step[0],
        head + max(high, 1) * step[1] + MARGIN + (line if any(left_out) else 0),
    )
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for x, text in enumerate(column_labels[:wide]):
        _write(draw, (MARGIN + label + x * step[0], MARGIN), _wrap(text, font, side), font, FAINT)
    for y, row in enumerate(visible):
        top = head + y * step[1]
        _write(draw, (MARGIN, top), _wrap(row_labels[y], font, label - 2 * GAP, side // line), font, INK)
        for x in range(wide if any(column_labels) else min(wide, len(row))):
            left = MARGIN + label + x * step[0]
            _paste(page, row[x] if x < len(row) else None, (left, top), side)
            if notes and x < len(notes[y]):
                _write(draw, (left, top + side), _wrap(notes[y][x], small, side, NOTES), small, INK)
    if any(left_out):
        words = f"not shown: {left_out[0]} rows, {left_out[1]} columns"
        _write(draw, (MARGIN, size[1] - MARGIN - line), [words], font, FAINT)
    return page


def _columns(
    rows: Sequence[Sequence[Image.Image | None]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> int:
    columns = max((len(row) for row in rows), default=0)
    if len(row_labels) != len(rows) or len(column_labels) < columns:
        raise ValueError(
            f"{len(rows)} rows of {columns} pictures have {len(row_labels)} and {len(column_labels)} labels"
        )
    return len(column_labels)


def _side(rows: Sequence[Sequence[Image.Image | None]], cell: int | None, count: int) -> int:
    """The side of a cell: what was asked for, or what the pictures have, if the sheet stays in bounds."""
    native = max((max(image.size) for row in rows for image in row if image), default=CELL[0])
    wanted_side = cell if cell is not None else min(max(native, CELL[0]), CELL[1])
    fits = (LARGEST - 480) // max(1, count) - GAP
    return max(min(wanted_side, max(fits, 48)), 16)


def _paste(page: Image.Image, image: Image.Image | None, corner: tuple[int, int], side: int) -> None:
    x, y = corner
    if image is None:
        ImageDraw.Draw(page).rectangle((x, y, x + side - 1, y + side - 1), fill=EMPTY)
        return
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = _flat(image).resize(size, Image.Resampling.LANCZOS)
    page.paste(small, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))


def _flat(image: Image.Image) -> Image.Image:
    """RGB, transparency on white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*PAPER, 255)), image).convert("RGB")
    return image.convert("RGB")


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    font: Font,
    ink: tuple[int, int, int],
) -> None:
    for number, text in enumerate(lines):
        draw.text((corner[0], corner[1] + number * _height(font)), text, fill=ink, font=font)


def _height(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Ag")
    return round((bottom + top) * 1.1)


def _widest(texts: Sequence[Sequence[str]]) -> Sequence[str]:
    return max(texts, key=len, default=())


def _wrap(text: str, font: Font, width: int, max_lines: int = LINES) -> list[str]:
    """``text`` in at most ``max_lines`` lines of ``width`` pixels; a word longer than a line is broken."""
    lines = [""]
    for word in _words(text):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        while len(lines) <= LINES and (cut := _fitting(word, font, width)) < len(word):
            lines[-1], word = word[:cut], word[cut:]
            lines.append("")
        lines[-1] = word
    max_lines = max(1, min(max_lines, LINES))
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(last + " ...") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last.rstrip() + " ..."]
    return lines


def _fitting(word: str, font: Font, width: int) -> int:
    """How many letters of ``word``, at least 1, take at most ``width`` pixels."""
    cut = 1
    while cut < len(word) and font.getlength(word[: cut + 1]) <= width:
        cut += 1
    return cut


def _words(text: str) -> list[str]:
    """At most 600 characters of words; what cannot be drawn (controls, lone surrogates) becomes a space."""
    clean = "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text[:600])
    return clean.split()


def write_sheet(run: RunDir, prompts: list[str]) -> None:
    """The contact sheet: a row for each prompt, a column for each step, the base first.

    Of an edit model, control images and target stand before them.
    """
    sheet_columns = columns(run.samples())
    pairs = Pairs.of(run.data() if run.data_path.is_file() else {})
    rows = [
        [*pairs.images(number)]
        + [
            Image.open(column.images[number]).convert("RGB") if number in column.images else None
            for column in sheet_columns
        ]
        for number in range(len(prompts))
    ]
    names = [*pairs.names, *(column.name for column in sheet_columns)]
    contact_sheet = sheet(rows, prompts, names).convert("RGB")
    atomic_write(run.sheet_path, partial(contact_sheet.save, format="JPEG", quality=90))
