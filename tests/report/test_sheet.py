import time

import numpy as np
import pytest
from PIL import Image, ImageFont

from limner.report.sheet import GAP, LARGEST, LINES, MARGIN, PAPER, _wrap, sheet, write_sheet
from limner.run_folder import RunDir

RED, BLUE = (200, 0, 0), (0, 0, 200)


def tile(color=RED, size=(64, 64), mode="RGB"):
    return Image.new("RGB", size, color).convert(mode)


def share(page, color):
    return sum(count for count, seen in page.getcolors(2**24) if seen == color) / (page.width * page.height)


def test_rows_and_columns_stand_in_order():
    page = sheet([[tile(RED), tile(BLUE)], [tile(BLUE), None]], ["one", "two"], ["base", "step 10"], cell=100)
    assert page.mode == "RGB"
    where = {}
    for color in (RED, BLUE):
        mask = page.point(lambda v: v).convert("RGB")
        found = [
            (x, y)
            for x in range(0, page.width, 5)
            for y in range(0, page.height, 5)
            if mask.getpixel((x, y)) == color
        ]
        where[color] = found
    red, blue = where[RED], where[BLUE]
    assert max(x for x, _ in red) - min(x for x, _ in red) < 100
    right = [(x, y) for x, y in blue if x > max(x for x, _ in red)]
    below = [(x, y) for x, y in blue if y > max(y for _, y in red)]
    assert len(right) == len(below) == pytest.approx(len(red), abs=60)
    assert len(right) + len(below) == len(blue)


def test_pictures_keep_their_shape_and_any_mode_will_do():
    modes = ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "LA"]
    rows = [[tile(RED, (64, 64), "L").convert(mode) if mode == "I;16" else tile(mode=mode) for mode in modes]]
    assert sheet(rows, ["all"], modes).width > 8 * 128
    page = sheet([[tile(RED, (100, 50))]], ["wide"], ["base"], cell=200)
    assert share(page, RED) * page.width * page.height == pytest.approx(200 * 100, rel=0.03)


def test_transparency_lies_on_white():
    page = sheet([[Image.new("RGBA", (64, 64), (0, 0, 0, 0))]], ["a"], ["b"])
    assert page.getpixel((page.width - 60, page.height - 60)) == (255, 255, 255)


def test_the_sheet_is_bounded_and_says_what_it_leaves_out():
    start = time.process_time()
    page = sheet([[tile(size=(8, 8))] * 150] * 3, ["p"] * 3, [f"step {n}" for n in range(150)])
    assert max(page.size) <= LARGEST
    assert time.process_time() - start < 3
    assert max(sheet([[tile()]] * 500, ["p"] * 500, ["base"]).size) <= LARGEST
    assert max(sheet([[tile(size=(4000, 10))]], ["p"], ["base"]).size) < 1000


def test_empty_sheets_and_short_rows_are_sheets_too():
    assert sheet([], [], []).size > (0, 0)
    assert sheet([[]], ["no picture"], ["base"]).size > (0, 0)
    assert sheet([[tile()], [tile(), tile()]], ["a", "b"], ["base", "step 1"]).size > (0, 0)


def test_labels_must_match():
    with pytest.raises(ValueError, match="1 rows of 2 pictures have 1 and 1 labels"):
        sheet([[tile(), tile()]], ["a"], ["base"])
    with pytest.raises(ValueError, match="labels"):
        sheet([[tile()]], [], ["base"])


def test_long_prompts_wrap_within_their_column():
    font = ImageFont.load_default(14)
    text = "a very long prompt " * 20 + "x" * 300
    lines = _wrap(text, font, 150)
    assert len(lines) == LINES
    assert lines[-1].endswith("...")
    assert all(font.getlength(line) <= 150 for line in lines)
    assert _wrap("short one", font, 150) == ["short one"]
    assert "".join(_wrap("y" * 60, font, 150)) == "y" * 60
    assert _wrap("", font, 150) == [""]


@pytest.mark.parametrize(
    "text", ["a\nb\tc\0d", "\ud800", "مرحبا 猫 🦄", "x" * 10**6, "\u202eevil", " " * 999]
)
def test_hostile_labels_are_drawn_or_dropped(text):
    assert sheet([[tile()]], [text], [text]).size < (1000, 1000)


def test_notes_stand_under_their_pictures_within_their_width():
    rows, notes = [[tile(), tile()], [tile()]], [["one", "two " * 200], ["three"]]
    bare, page = (
        sheet(rows, ["", ""], ["", ""], cell=100),
        sheet(rows, ["", ""], ["", ""], cell=100, notes=notes),
    )
    assert page.width == bare.width < 300, "no room is kept for row labels that say nothing"
    assert page.height > bare.height + 2 * 50
    red = [y for y in range(page.height) if page.getpixel((MARGIN + 50, y)) == RED]
    assert len(red) == 200 and red[100] - red[99] > 60, "the notes lie between the rows"
    edge = MARGIN + 2 * (100 + GAP) - GAP
    written = page.crop((edge, 0, page.width, page.height))
    assert written.getcolors() == [(written.width * written.height, PAPER)], "long notes are wrapped and cut"


def test_a_sheet_with_gaps(tmp_path):
    run = RunDir(tmp_path)
    for step, number in ((0, 0), (0, 1), (5, 1)):
        path = run.sample_path(step, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 40 * (step + 1), np.uint8)).save(path)
    write_sheet(run, ["one", "two"])
    with Image.open(run.sheet_path) as page:
        assert page.width > 32 and page.height > 32 and page.format == "JPEG"


def test_runs_of_unequal_lengths_end_side_by_side(tmp_path):
    run = RunDir(tmp_path)
    for step, number in ((0, 0), (0, 1), (240, 0), (280, 1)):
        path = run.sample_path(step, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(path)
    write_sheet(run, ["one", "two"])
    with Image.open(run.sheet_path) as sheet:
        two = sheet.width
    (run.sample_path(280, 1)).rename(run.sample_path(240, 1))
    write_sheet(run, ["one", "two"])
    with Image.open(run.sheet_path) as sheet:
        assert sheet.width == two
