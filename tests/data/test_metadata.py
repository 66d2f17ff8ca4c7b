import json

import numpy as np
import pytest

from limner.data.metadata import BrokenRow, MetadataRow, inside, read_metadata
from limner.errors import BadData


def rows(tmp_path, content: str | bytes, name: str = "metadata.jsonl"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_metadata(path)


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
@pytest.mark.parametrize("file", ["file_name", "image"])
def test_both_layouts_in_both_forms(tmp_path, column, file):
    expected = [MetadataRow(1, "a.jpg", ("a cat",)), MetadataRow(2, "sub/b.jpg", ("two, cats",))]
    lines = [{file: "a.jpg", column: "a cat"}, {file: "sub/b.jpg", column: "two, cats"}]
    assert rows(tmp_path, "\n".join(map(json.dumps, lines))) == expected
    table = f'{file},other,{column}\na.jpg,1,a cat\nsub/b.jpg,2,"two, cats"\n'
    assert rows(tmp_path, table, "metadata.csv") == [row._replace(line=row.line + 1) for row in expected]


def test_byte_order_mark_crlf_and_empty_lines(tmp_path):
    line = '{"file_name": "a.jpg", "text": "a\u2028cat"}'
    assert rows(tmp_path, f"\ufeff{line}\r\n\r\n") == [MetadataRow(1, "a.jpg", ("a cat",))]
    table = "\ufefffile_name , text\r\na.jpg,a cat\r\n\r\n"
    assert rows(tmp_path, table, "metadata.csv") == [MetadataRow(2, "a.jpg", ("a cat",))]


def test_a_list_is_variants_and_null_is_none(tmp_path):
    found = rows(
        tmp_path, '{"image": "a.jpg", "prompt": ["x", " ", "y"]}\n{"image": "b.jpg", "prompt": null}'
    )
    assert found == [MetadataRow(1, "a.jpg", ("x", "y")), MetadataRow(2, "b.jpg", ())]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "is not JSON"),
        ('{"file_name": "a.jpg", "text"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("[1, 2]", "is list, not an object"),
        ("null", "is NoneType, not an object"),
        ("{}", "has none of file_name, image, video, only nothing. Add one"),
        ('{"file": "a.jpg"}', "has none of file_name, image, video, only 'file'"),
        ('{"file_name": "a.jpg", "label": 3}', "has none of text, caption, prompt"),
        ('{"file_name": 3, "text": "x"}', "file_name is 3, not a string"),
        ('{"file_name": null, "text": "x"}', "file_name is None"),
        ('{"file_name": ["a.jpg"], "text": "x"}', "not a string"),
        ('{"file_name": "", "text": "x"}', "the file name '' is none"),
        ('{"file_name": "a\\u0000.jpg", "text": "x"}', "is none"),
        ('{"file_name": "\\ud800.jpg", "text": "x"}', "is none"),
        ('{"file_name": "../a.jpg", "text": "x"}', "leads out of the folder, which is refused"),
        ('{"file_name": "b/../../a.jpg", "text": "x"}', "leads out of the folder"),
        ('{"file_name": "..\\\\a.jpg", "text": "x"}', "leads out of the folder"),
        ('{"file_name": "/etc/a.jpg", "text": "x"}', "not relative"),
        ('{"file_name": "C:\\\\a.jpg", "text": "x"}', "not relative"),
        ('{"file_name": "https://x.org/a.jpg", "text": "x"}', "not relative"),
        ('{"file_name": "a.jpg", "text": 7}', "caption of a.jpg is 7, not a string"),
        ('{"file_name": "a.jpg", "text": {"en": "x"}}', "not a string"),
        ('{"file_name": "a.jpg", "text": ["x", 1]}', "not a string"),
        ('{"file_name": "a.jpg", "text": "\\ud800"}', "no text"),
        (json.dumps({"file_name": "a.jpg", "text": "x" * 9000}), "A caption of 9000 characters"),
        ('{"file_name": "./good.jpg", "text": "x"}', "names good.jpg again, after line 1. Remove one"),
    ],
)
def test_a_broken_line_is_named_and_the_others_stay(tmp_path, line, reason):
    good, broken, last = rows(
        tmp_path, f'{{"file_name": "good.jpg", "text": "x"}}\n{line}\n{{"file_name": "z.jpg", "text": ""}}'
    )
    assert good == MetadataRow(1, "good.jpg", ("x",)) and last == MetadataRow(3, "z.jpg", ())
    assert isinstance(broken, BrokenRow)
    assert broken.reason.startswith("line 2: ") and reason in broken.reason
    assert "\n" not in broken.reason and len(broken.reason) < 400


def test_a_csv_line_of_another_length_is_named(tmp_path):
    found = rows(tmp_path, "file_name,text\na.jpg,one, two\nb.jpg\nc.jpg,x\n", "metadata.csv")
    assert found[0] == BrokenRow(2, "line 2: has 3 cells, not 2. Put captions with commas in quotes.")
    assert isinstance(found[1], BrokenRow) and found[2] == MetadataRow(4, "c.jpg", ("x",))


def test_a_caption_of_several_lines_is_one_caption(tmp_path):
    found = rows(tmp_path, 'file_name,text\na.jpg,"one\r\ntwo"\n', "metadata.csv")
    assert found == [MetadataRow(3, "a.jpg", ("one two",))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no column file_name or image"),
        (b"file_name;text\na.jpg;x", "has no column file_name or image or video, only 'file_name;text'"),
        (b"file_name,label\na.jpg,x", "has no column text or caption or prompt"),
        (b"file_name,text,text\na.jpg,x,y", "two columns of one name"),
        (b'file_name,text\na.jpg,"x', "breaks off at line 2"),
        (b'file_name,text\na.jpg,"x"y\n', "breaks off at line 2"),
        (b"file_name,text\na.jpg," + b"x" * 200_000, "breaks off at line 2 .field larger"),
        ("file_name,text\na.jpg,é".encode("latin-1"), "is not UTF-8 .byte 21"),
        ("file_name,text\na.jpg,x".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_broken_table_is_refused_as_a_whole(tmp_path, content, reason):
    with pytest.raises(BadData, match=reason):
        rows(tmp_path, content, "metadata.csv")


def test_names_are_made_plain():
    assert inside(" ./a//b/../c.jpg ") == "a/c.jpg"
    assert inside("a\\b.jpg") == "a/b.jpg"
    assert inside("..a.jpg") == "..a.jpg"


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_damage_gives_rows_or_named_errors(tmp_path, name):
    draw = np.random.default_rng(5)
    whole = (
        b'{"file_name": "a.jpg", "text": "a cat"}\r\n{"file_name": "b.jpg", "text": ["x", "y"]}\n'
        if name.endswith("jsonl")
        else b'file_name,text\r\na.jpg,"a, cat"\nb.jpg,y\n'
    )
    for _ in range(300):
        data = bytearray(whole[: draw.integers(1, len(whole) + 1)])
        for at in draw.integers(0, len(data), draw.integers(0, 6)):
            data[at] = draw.integers(256) if draw.random() < 0.3 else draw.choice(list(b'",{}[]\\\n\0:./'))
        try:
            found = rows(tmp_path, bytes(data), name)
        except BadData as error:
            assert "metadata" in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(one, MetadataRow | BrokenRow) for one in found)
