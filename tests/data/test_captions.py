import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from limner.data.captions import (
    MAX_CAPTION_LENGTH,
    MAX_VARIANTS,
    BrokenRow,
    MetadataRow,
    count_word,
    final,
    has_word,
    inside,
    read_metadata,
    read_sidecar,
    read_text,
    split,
    variants,
    with_trigger,
    without_trigger,
)
from limner.data.folder import read_folder
from limner.errors import BadData
from messages import raises


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of [trigger] on grass", "a photo of sks cat on grass"),
        ("a photo of {Trigger}", "a photo of sks cat"),
        ("a photo of a dog", "sks cat, a photo of a dog"),
        ("A Sks Cat in rain", "A Sks Cat in rain"),
        ("sks cats", "sks cat, sks cats"),
        ("", "sks cat"),
        ("[Trigger] and {TRIGGER}", "sks cat and sks cat"),
    ],
)
def test_the_trigger_is_in_every_caption(caption, expected):
    assert with_trigger(caption, "sks cat") == expected


def test_a_trigger_of_signs_is_found_as_it_stands():
    assert with_trigger("a (x+) b", "(x+)") == "a (x+) b"
    assert with_trigger("[trigger]!", r"\1") == r"\1!"


def test_without_a_trigger_captions_stay_and_placeholders_are_refused():
    assert with_trigger("a cat", "") == "a cat"
    with raises(BadData):
        with_trigger("a [trigger]", "")


def test_an_image_without_captions_gets_the_default_or_the_trigger():
    assert final((), trigger="sks", default="") == ("sks",)
    assert final((), trigger="sks", default="a photo of [trigger]") == ("a photo of sks",)
    assert final((), trigger="", default="") == ("",)
    assert final(("a", "sks, a"), trigger="sks", default="x") == ("sks, a",)


def test_lines_are_variants(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\r\n a cat \r\n\ta  dog\r\na cat\nété\n\n".encode())
    assert read_sidecar(tmp_path / "a.txt") == ("a cat", "a dog", "été")


@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\n \t\n", "\r\r", "\n\n\n"])
def test_paragraphs_are_one_caption(tmp_path, gap):
    (tmp_path / "a.txt").write_bytes(f"{gap}A cat looks.{gap}The light\nis warm.{gap}".encode())
    assert read_sidecar(tmp_path / "a.txt") == ("A cat looks. The light is warm.",)


words = st.text(st.characters(categories=["L", "N"], max_codepoint=0x2FF), min_size=1, max_size=8)


@hypothesis.given(st.lists(words, min_size=1, max_size=6, unique=True), st.sampled_from(["\n", "\r\n", "\r"]))
def test_lines_split_and_paragraphs_join_whatever_they_hold(lines, separator):
    assert variants(split(separator.join(lines))) == tuple(lines)
    assert variants(split((separator + separator).join(lines))) == (" ".join(lines),)


@pytest.mark.parametrize(
    "text",
    [".", ", ,", "\u200b\u200b", "\ufeff", "\u3164", "\x1a", "\u2800", "\u00ad", "--", "…", "\u200e \u2060"],
)
def test_what_shows_nothing_is_no_caption(text):
    assert variants([text]) == ()


@pytest.mark.parametrize("text", ["7", "é", "猫", "\N{CAT FACE}", "°", "a\u200bb", "₤"])
def test_a_letter_a_digit_or_a_sign_is_a_caption(text):
    assert variants([text]) == (text,)


@pytest.mark.parametrize("content", [b"", b"\n \n\t\r\n", "\ufeff".encode()])
def test_an_empty_file_has_no_caption(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_sidecar(tmp_path / "a.txt") == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("ein Kätzchen".encode("latin-1"), r"a.txt is not UTF-8 \(byte 5\). Save it as UTF-8"),
        ("a cat".encode("utf-16"), "not UTF-8"),
        ("a cat".encode("utf-16-le"), "bytes that are no text"),
        (
            b"x" * (MAX_CAPTION_LENGTH + 1),
            f"a.txt: A caption of {MAX_CAPTION_LENGTH + 1} characters; at most 8000",
        ),
        (b"".join(b"%d\n" % n for n in range(MAX_VARIANTS + 1)), "65 captions for one image; at most 64"),
        (b"x\n" * 2_000_000, "at most 2.0 MB are read. Is it really captions"),
    ],
)
def test_what_is_no_caption_is_refused(tmp_path, content, reason):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadData, match=reason):
        read_sidecar(tmp_path / "a.txt")


def test_half_a_character_is_refused():
    with raises(BadData):
        variants(["a \ud83d cat"])


def test_a_missing_file_is_named(tmp_path):
    with raises(BadData):
        read_text(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("word", "caption", "count"),
    [
        ("小猫", "这是小猫在沙发上", 1),
        ("ミケ", "赤いミケの写真、ミケ", 2),
        ("แมว", "รูปแมวนอน", 1),
        ("zxq", "这是zxq在沙发上", 1),
        ("zxq猫", "这是zxq猫", 1),
        ("zxq猫", "这是azxq猫", 0),
        ("zxq", "这是zxqs在沙发上", 0),
        ("김", "김치 김", 1),
        ("<s1>", "photo<s1>s", 1),
        ("미케", "소파 위의 미케가 잔다", 1),
        ("미케", "미케에게는 미케들의 미케입니다", 3),
        ("미케", "붉은미케, 미케노", 0),
        ("zxq", "zxq가 소파에서 zxq와", 2),
        ("zxq2", "zxq2의 사진", 1),
        ("zxq", "zxq2의 사진", 0),
        ("zxq 고양이", "zxq 고양이를 본다", 1),
        ("zxq", "الzxq على الأريكة", 1),
        ("zxq", "zxqом на диване", 1),
        ("кот", "котом", 0),
        ("x x", "xx x x", 1),
    ],
)
def test_a_word_needs_no_spaces_where_its_script_has_none(word, caption, count):
    assert count_word(word, caption) == count
    assert with_trigger(caption, word) == (caption if count else f"{word}, {caption}")


korean = st.text(st.sampled_from("고양이소파 "), max_size=6).map(lambda text: f"{text} " if text else "")
particles = st.sampled_from(["", *"은는이가을를의에", "에서", "에게는", "들이", "까지도", "으로부터"])


@hypothesis.given(korean, st.sampled_from(["zxq", "미케", "sks cat", "zxq 고양이", "zxq2"]), particles)
def test_a_trigger_with_a_korean_particle_is_neither_put_in_twice_nor_left_behind(before, trigger, particle):
    caption = before + trigger + particle
    assert with_trigger(caption, trigger) == caption
    assert trigger not in without_trigger(caption, trigger)


unspaced = st.text(st.sampled_from("的是在上猫犬のをタイトル"), max_size=6)


@hypothesis.given(unspaced, st.sampled_from(["zxq", "小猫", "sks cat", "ミケ2"]), unspaced)
def test_a_trigger_in_unspaced_text_is_never_put_in_twice(before, trigger, after):
    assert with_trigger(before + trigger + after, trigger) == before + trigger + after


def test_words_are_found_whole():
    assert has_word("cat", "A Cat!")
    assert not has_word("cat", "concatenate a catalogue")
    assert count_word("sks cat", "sks cat and SKS CAT and skscat") == 2


def test_a_file_beside_an_image_says_what_counts(tmp_path, paint):
    paint(300, 200).save(tmp_path / "a.png")
    paint(300, 200).save(tmp_path / "b.png")
    (tmp_path / "a.crop").write_text("100 0 300 200")
    first, second = read_folder(tmp_path, trigger="x").examples
    assert first.region == first.extent == (100, 0, 300, 200)
    assert second.region is None and second.extent == (0, 0, 300, 200)


def test_a_column_of_the_metadata_says_it_too(tmp_path, paint):
    paint(300, 200).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "crop": [0, 0, 200, 200]}')
    assert read_folder(tmp_path).examples[0].region == (0, 0, 200, 200)


def test_a_bad_or_small_part_leaves_the_image_out_by_name(tmp_path, paint):
    for name in "abc":
        paint(300, 200).save(tmp_path / f"{name}.png")
    (tmp_path / "a.crop").write_text("0 0 9999 9999")
    (tmp_path / "b.crop").write_text("0 0 30 30")
    found = read_folder(tmp_path, trigger="x", min_side=64)
    assert [example.path.name for example in found.examples] == ["c.png"]
    assert "no part of its 300 x 200" in found.rejected[0].reason
    assert "30 x 30 pixels; the short side needs 64" in found.rejected[1].reason


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
        ("[1, 2]", "begins a JSON array. Write one object a line"),
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


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("one\r\ntwo", ("one", "two")),
        ("one\r\n\r\ntwo", ("one two",)),
        ("one\n \ntwo\nthree\n", ("one two three",)),
    ],
)
def test_a_text_is_read_alike_in_every_kind_of_file(tmp_path, text, captions):
    assert rows(tmp_path, f'file_name,text\na.jpg,"{text}"\n', "metadata.csv")[0].captions == captions
    line = json.dumps({"file_name": "a.jpg", "text": text})
    assert rows(tmp_path, line) == [MetadataRow(1, "a.jpg", captions)]
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_sidecar(tmp_path / "a.txt") == captions
    listed = json.dumps({"file_name": "a.jpg", "text": [text, "x"]})
    assert rows(tmp_path, listed) == [MetadataRow(1, "a.jpg", (" ".join(text.split()), "x"))]


def test_a_caption_is_the_first_that_says_something(tmp_path):
    line = {"file_name": "a.jpg", "text": None, "caption": "", "prompt": "a cat"}
    assert rows(tmp_path, json.dumps(line)) == [MetadataRow(1, "a.jpg", ("a cat",))]
    assert rows(tmp_path, "file_name,text,caption\na.jpg,,a cat\n", "metadata.csv") == [
        MetadataRow(2, "a.jpg", ("a cat",))
    ]


def test_images_in_other_columns_go_with_a_row(tmp_path):
    line = {"image": "a.jpg", "prompt": "b.png, on a wall", "edit_image": "b.png", "n": 1, "mask": "m/a.PNG"}
    (row,) = rows(tmp_path, json.dumps(line))
    assert isinstance(row, MetadataRow) and row.companions == ("b.png", "m/a.PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no column file_name or image"),
        (b"file_name;text\na.jpg;x", "has no column file_name or image or video: it is separated by semico"),
        (b"file_name\ttext\na.jpg\tx", "it is separated by tabs. Name the columns in its first line"),
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


def test_the_seed_of_a_picture_that_was_sampled_is_read(tmp_path):
    rows = ['{"file_name": "a.png", "text": "x", "seed": 12}', '{"file_name": "b.png", "text": "x"}']
    rows += ['{"file_name": "c.png", "text": "x", "seed": "random"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert [row.seed for row in read_metadata(tmp_path / "metadata.jsonl")] == [12, None, None]


@pytest.mark.parametrize(
    ("caption", "word", "left"),
    [
        ("sks cat, on a sofa", "", "on a sofa"),
        ("sks cat, on a sofa", "cat", "cat, on a sofa"),
        ("a photo of SKS cat , asleep", "cat", "a photo of cat, asleep"),
        ("red, sks cat, asleep", "", "red, asleep"),
        ("sks cat", "", ""),
        ("sks cats", "cat", "sks cats"),
    ],
)
def test_a_caption_without_the_trigger(caption, word, left):
    assert without_trigger(caption, "sks cat", word) == left
