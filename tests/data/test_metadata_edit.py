import csv
import json

import pytest

from limner.data.captions import MetadataRow, read_metadata
from limner.data.metadata_edit import with_captions
from limner.errors import BadData, BadUsage
from messages import raises


def captions(path):
    return {row.file: row.captions for row in read_metadata(path) if isinstance(row, MetadataRow)}


def test_only_the_captions_of_a_jsonl_change(tmp_path):
    path = tmp_path / "metadata.jsonl"
    lines = [
        '{"file_name": "a.png",  "text": "", "caption": "old", "score": 0.5}',
        "",
        '{"image": "sub\\\\b.png", "prompt": ["one", "two"]}',
        "{ no json",
        '{"file_name": "c.png", "text": "bl\u00e5"}',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = with_captions(path, {"a.png": "new\nother", "sub/b.png": "ünly"})
    after = text.split("\n")
    assert json.loads(after[0]) == {
        "file_name": "a.png",
        "text": "",
        "caption": ["new", "other"],
        "score": 0.5,
    }
    assert json.loads(after[2]) == {"image": "sub\\b.png", "prompt": ["ünly"]} and "ünly" in after[2]
    assert [after[number] for number in (1, 3, 4, 5)] == [lines[1], lines[3], lines[4], ""]
    path.write_text(text, encoding="utf-8")
    assert captions(path) == {"a.png": ("new", "other"), "sub/b.png": ("ünly",), "c.png": ("blå",)}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_captions_of_a_csv_change(tmp_path, end):
    path = tmp_path / "metadata.csv"
    before = f'file_name, text,note{end}a.png,"old, cat",x{end}b.png,same,"y ""z"""{end}'
    path.write_text(before, newline="")
    text = with_captions(path, {"a.png": "new, cat\na cat"})
    assert text.endswith(f'b.png,same,"y ""z"""{end}') and text.startswith("file_name, text,note" + end)
    path.write_text(text, newline="")
    assert captions(path) == {"a.png": ("new, cat", "a cat"), "b.png": ("same",)}
    assert next(csv.reader(text.splitlines())) == ["file_name", " text", "note"]


def test_what_cannot_be_written_is_told(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png", "text": "x"}\n')
    with raises(BadUsage):
        with_captions(path, {"b.png": "y"})
    with raises(BadData):
        with_captions(path, {"a.png": "y" * 9000})
