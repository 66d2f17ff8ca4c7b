import csv

import pytest
from hypothesis import given
from hypothesis.strategies import text

from limner.captions.review_table import CaptionEdit, TableRow, changes, escaped, sign, table, unescaped
from limner.errors import BadData
from messages import raises

LINES = [
    TableRow("a.png", "a cat\none cat\n"),
    TableRow("b.png", 'a "dog",\ta bone\n', "yours"),
    TableRow("#c.png", ""),
]
TEXTS = {line.file: line.text for line in LINES}


def test_a_table_that_nobody_edits_changes_nothing():
    assert changes(table(LINES), TEXTS) == []
    assert changes("\ufeff" + table(LINES).replace("\n", "\r\n"), TEXTS) == []


def test_edits_additions_and_removals_are_read():
    edited = table(LINES).replace("a cat", "a grey cat").replace("#c.png\t\t", "#c.png\ta new one\t")
    more = f"a.png\ta third\t{sign(LINES[0].text)}\t\n"
    lines = [line for line in (edited + more).splitlines(keepends=True) if not line.startswith("b.png")]
    assert changes("".join(lines), TEXTS) == [
        CaptionEdit("a.png", ("a grey cat", "one cat", "a third"), sign(LINES[0].text)),
        CaptionEdit("#c.png", ("a new one",), sign("")),
    ]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda t: t.replace("a.png\ta cat", "x.png\ta cat"), "Line 4 .*'x.png', which is no image here"),
        (
            lambda t: t.replace("image\tcaption", "image,caption"),
            "must begin with the columns image, caption, was",
        ),
        (lambda t: t + "a.png\ta cat\n", "Line 8 of the table has 2 columns"),
        (lambda t: t.replace("one cat\t", "one cat\tx"), "another sign"),
        (lambda t: t.replace("a.png\ta cat", 'a.png\t"a cat'), "cannot be read|several lines"),
        (lambda t: t.replace("a cat", "").replace("one cat", ""), "no caption for a.png. Write one"),
        (lambda t: t.replace("a cat", "x" * 9000), "a.png: A caption of 9000 characters"),
        (lambda t: "", "must begin with"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(edit, match):
    with pytest.raises(BadData, match=match):
        changes(edit(table(LINES)), TEXTS)


def test_a_caption_that_changed_meanwhile_is_not_lost():
    edited = table(LINES).replace("a cat", "a grey cat")
    with raises(BadData):
        changes(edited, TEXTS | {"a.png": "meanwhile"})
    assert changes(table(LINES), TEXTS | {"a.png": "a cat\none cat"}) == []


FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", '=HYPERLINK("http://x","y")', "'=1", "''+1", "-a"]


def test_no_cell_is_a_formula_and_all_are_read_back_equal():
    names = [f"{text[:5].replace('/', '')}{number}.png" for number, text in enumerate(FORMULAS)]
    lines = [TableRow(name, f"{text}\n") for name, text in zip(names, FORMULAS, strict=True)]
    texts = {line.file: line.text for line in lines}
    written = table(lines)
    cells = [cell for row in csv.reader(written.splitlines()[3:], delimiter="\t") for cell in row]
    assert len(cells) == 4 * len(lines) and not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
    assert changes(written, texts) == []
    assert [edit.captions for edit in changes(written.replace("\t'-2+3", "\t'-2+4"), texts)] == [("-2+4",)]


@given(text())
def test_escaping_is_undone(cell):
    assert unescaped(escaped(cell)) == cell
    assert escaped(cell)[:1] not in ("=", "+", "-", "@")
