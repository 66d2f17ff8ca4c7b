import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from limner.data.folder import Folder, read_folder
from limner.errors import BadData
from limner.files import sha256_file
from messages import raises


def captions(folder: Folder) -> dict[str, tuple[str, ...]]:
    return {one.path.relative_to(folder.root).as_posix(): one.captions for one in folder.examples}


def reasons(folder: Folder) -> dict[str, str]:
    return {one.path.relative_to(folder.root).as_posix(): one.reason for one in folder.rejected}


def test_captions_beside_images(tmp_path, fill):
    fill(
        tmp_path, **{"b.jpg": None, "b.txt": "a cat\na [trigger] cat\n", "a/c.jpg": None, "a/c.caption": "x"}
    )
    fill(tmp_path, **{"d.jpg": None, "e.jpg": None, "e.txt": ""})
    folder = read_folder(tmp_path, trigger="sks", default_caption="a photo of {trigger}")
    assert folder.layout == "sidecar" and folder.root == tmp_path and folder.rejected == ()
    assert captions(folder) == {
        "a/c.jpg": ("sks, x",),
        "b.jpg": ("sks, a cat", "a sks cat"),
        "d.jpg": ("a photo of sks",),
        "e.jpg": ("a photo of sks",),
    }
    first = folder.examples[0]
    assert (first.width, first.height, first.repeats) == (55, 32, 1)
    assert first.sha256 == sha256_file(first.path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "x/a.jpg", "text": "one"}\n{"file_name": "b.jpg", "text": ""}\n'),
        ("metadata.csv", "image,prompt\r\nx/a.jpg,one\r\nb.jpg,\r\n"),
    ],
)
def test_metadata_rules_its_folder(tmp_path, fill, name, text):
    fill(tmp_path, **{name: text, "x/a.jpg": None, "x/a.txt": "not this", "b.jpg": None, "b.txt": "beside"})
    fill(tmp_path, **{"c.jpg": None})
    folder = read_folder(tmp_path)
    assert folder.layout == name
    assert captions(folder) == {"b.jpg": ("beside",), "x/a.jpg": ("one",)}
    assert reasons(folder) == {"c.jpg": f"is not listed in {name}. Add a line for it."}


def test_metadata_below_rules_only_there(tmp_path, fill):
    fill(
        tmp_path, **{"train/metadata.csv": "file_name,text\na.jpg,one\n", "train/a.jpg": None, "b.jpg": None}
    )
    assert captions(read_folder(tmp_path, default_caption="d")) == {"b.jpg": ("d",), "train/a.jpg": ("one",)}


def test_bad_lines_of_metadata_are_named(tmp_path, fill):
    lines = ["{", '{"file_name": "../secret.jpg", "text": "x"}', '{"file_name": "gone.jpg", "text": "x"}']
    lines += ['{"file_name": "a.jpg", "text": "x"}', '{"file_name": "a.jpg", "text": "y"}']
    fill(tmp_path / "in", **{"metadata.jsonl": "\n".join(lines), "a.jpg": None})
    fill(tmp_path, **{"secret.jpg": None})
    folder = read_folder(tmp_path / "in")
    assert captions(folder) == {"a.jpg": ("x",)}
    assert {one.path.name for one in folder.rejected} == {"metadata.jsonl"}
    told = "\n".join(one.reason for one in folder.rejected)
    for part in (
        "line 1: is not JSON",
        "line 2: '../secret.jpg' leads out",
        "line 3: gone.jpg is not an image in",
    ):
        assert part in told
    assert "line 5: names a.jpg again, after line 4" in told


def test_lines_left_out_stand_in_their_order(tmp_path, fill):
    lines = ["[]"] * 11 + ['{"file_name": "a.jpg", "text": "x"}']
    fill(tmp_path, **{"metadata.jsonl": "\n".join(lines), "a.jpg": None})
    told = [one.reason.partition(":")[0] for one in read_folder(tmp_path).rejected]
    assert told == [f"line {number}" for number in range(1, 12)]


def test_a_file_is_called_by_its_place_in_the_folder(tmp_path, fill):
    fill(tmp_path, **{"one/a.jpg": None, "two/a.jpg": b"torn", "a.jpg": b""})
    folder = read_folder(tmp_path)
    assert [folder.named(one.path) for one in folder.examples] == ["one/a.jpg"]
    assert [folder.named(one.path) for one in folder.rejected] == ["a.jpg", "two/a.jpg"]
    assert folder.named(tmp_path.parent / "elsewhere" / "b.jpg") == "b.jpg"


def test_kohyas_folders_below_others_are_told(tmp_path, fill):
    fill(tmp_path, **{"img/10_sks cat/a.jpg": None, "reg/1_cat/deep/b.jpg": None, "log/c.jpg": None})
    folder = read_folder(tmp_path)
    assert folder.layout == "sidecar" and {one.repeats for one in folder.examples} == {1}
    assert folder.advice.startswith("img/10_sks cat, reg/1_cat: named as kohya's folders N_name are")
    assert folder.advice.endswith(f"name {tmp_path / 'img'}")
    inner = read_folder(tmp_path / "img")
    assert (inner.layout, inner.advice, inner.examples[0].repeats) == ("kohya", "", 10)


def test_names_are_compared_composed(tmp_path, fill):
    fill(tmp_path, **{unicodedata.normalize("NFD", "é.jpg"): None})
    fill(tmp_path, **{"metadata.csv": f"file_name,text\n{unicodedata.normalize('NFC', 'é.jpg')},x\n"})
    assert list(captions(read_folder(tmp_path)).values()) == [("x",)]


@pytest.mark.parametrize(("image", "text"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_text_files_are_found_composed_or_decomposed(tmp_path, fill, image, text):
    names = [unicodedata.normalize(form, "été ü") for form in (image, text)]
    fill(tmp_path, **{f"{names[0]}.jpg": None, f"{names[1]}.txt": "x", f"{names[1]}.crop": "0 0 32 32"})
    folder = read_folder(tmp_path)
    assert list(captions(folder).values()) == [("x",)] and folder.unread == ()
    assert folder.examples[0].region == (0, 0, 32, 32)


def test_each_of_two_forms_of_a_name_keeps_its_own_text(tmp_path, fill):
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    fill(
        tmp_path, **{f"{name}.jpg": None for name in names}, **{f"{name}.txt": ascii(name) for name in names}
    )
    assert captions(read_folder(tmp_path)) == {f"{name}.jpg": (ascii(name),) for name in names}


def test_a_metadata_file_may_name_a_mask_and_its_other_columns_are_no_images(tmp_path, fill):
    lines = [
        {"file_name": "a.jpg", "text": "x", "edit_image": "before.jpg"},
        {"file_name": "a-mask.jpg", "text": "y"},
    ]
    fill(tmp_path, **{"metadata.jsonl": "\n".join(map(json.dumps, lines)), "a.jpg": None, "a-mask.jpg": None})
    fill(tmp_path, **{"before.jpg": None, "loose.jpg": None, "loose_mask.jpg": None})
    folder = read_folder(tmp_path)
    assert captions(folder) == {"a-mask.jpg": ("y",), "a.jpg": ("x",)}
    assert folder.masks == ("loose_mask.jpg", "before.jpg")
    assert reasons(folder) == {"loose.jpg": "is not listed in metadata.jsonl. Add a line for it."}


def test_a_line_without_the_ending_of_its_image_is_told(tmp_path, fill):
    fill(tmp_path, **{"metadata.csv": "file_name,text\na,x\nb.jpg,y\n", "a.jpg": None, "b.jpg": None})
    told = [one.reason for one in read_folder(tmp_path).rejected if one.path.name == "metadata.csv"]
    assert told == ["line 2: a is not an image in the folder, but a.jpg is. Write the name with its ending."]


def test_where_captions_are_from(tmp_path, fill):
    fill(tmp_path, **{"3_cat/a.jpg": None, "3_cat/b.jpg": None, "3_cat/b.caption": "x", "3_cat/c.jpg": None})
    fill(tmp_path, **{"3_cat/c.txt": " . "})
    sources = {one.path.name: one.caption_file for one in read_folder(tmp_path).examples}
    assert sources == {"a.jpg": "3_cat/", "b.jpg": "3_cat/b.caption", "c.jpg": "3_cat/"}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.zip", "Unpack it"),
        ("data/train-0.parquet", "Save its pictures as files"),
        ("x/0.TAR", "Unpack it"),
    ],
)
def test_an_archive_alone_is_named(tmp_path, fill, name, remedy):
    fill(tmp_path, **{name: "x"})
    with pytest.raises(BadData, match=rf"holds no images, but {name}, which is not read\. {remedy}"):
        read_folder(tmp_path)


def test_two_metadata_files_are_refused(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "metadata.csv": "file_name,text\n", "metadata.jsonl": ""})
    with raises(BadData):
        read_folder(tmp_path)


def test_kohya_folders(tmp_path, fill):
    fill(tmp_path, **{"10_sks cat/a.jpg": None, "10_sks cat/b.jpg": None, "10_sks cat/b.txt": "beside"})
    fill(
        tmp_path,
        **{"2_dog_big/c.jpg": None, "2_dog_big/deep/d.jpg": None, "loose.jpg": None, "log/e.jpg": None},
    )
    folder = read_folder(tmp_path, default_caption="unused")
    assert folder.layout == "kohya"
    assert captions(folder) == {
        "10_sks cat/a.jpg": ("sks cat",),
        "10_sks cat/b.jpg": ("beside",),
        "2_dog_big/c.jpg": ("dog_big",),
        "2_dog_big/deep/d.jpg": ("dog_big",),
    }
    assert [one.repeats for one in folder.examples] == [10, 10, 2, 2]
    assert set(reasons(folder)) == {"loose.jpg", "log/e.jpg"}
    assert "outside the N_name folders (10_sks cat, ..). Move it" in reasons(folder)["loose.jpg"]


@pytest.mark.parametrize(
    ("name", "repeats", "caption"),
    [("05_cat", 5, "cat"), ("10_", 10, "d"), ("007_a_b", 7, "a_b"), ("999_x", 999, "x")],
)
def test_kohyas_numbers_are_read_as_kohya_does(tmp_path, fill, name, repeats, caption):
    fill(tmp_path, **{f"{name}/a.jpg": None})
    (example,) = read_folder(tmp_path, default_caption="d").examples
    assert (example.repeats, example.captions) == (repeats, (caption,))


def test_what_lies_beside_kohyas_folders_is_left_out_for_its_own_reason(tmp_path, fill):
    fill(tmp_path, **{"10_cat/a.jpg": None, "0_dog/b.jpg": None, "2024_paris/c.jpg": None, "d.jpg": None})
    told = reasons(read_folder(tmp_path))
    assert "0_dog, whose number says 0 repeats" in told["0_dog/b.jpg"]
    assert "2024 repeats are more than 999" in told["2024_paris/c.jpg"]
    assert "outside the N_name folders" in told["d.jpg"]


def test_numbers_that_may_stand_for_an_order_are_told(tmp_path, fill):
    fill(tmp_path, **{"1_front/a.jpg": None, "2_side/b.jpg": None, "03_back/c.jpg": None})
    folder = read_folder(tmp_path)
    assert [one.repeats for one in folder.examples] == [3, 1, 2]
    assert folder.advice.startswith("The folders' numbers 1 to 3 are read as kohya's repeats")
    fill(tmp_path, **{"7_more/d.jpg": None})
    assert read_folder(tmp_path).advice == ""


def test_a_folder_that_is_itself_named_as_kohyas_is_told(tmp_path, fill):
    inner = fill(tmp_path / "10_sks cat", **{"a.jpg": None})
    folder = read_folder(inner)
    assert folder.advice.startswith(
        "10_sks cat is named as kohya's folders N_name are, and read as a plain one."
    )
    assert folder.advice.endswith(f"name the folder above it: {tmp_path}")


@pytest.mark.parametrize(
    "name", ["2024_paris", "0_cat", "cat", "10cat", "_cat", "x/10_cat", "1.5_cat", "00_cat"]
)
def test_other_folders_are_not_kohyas(tmp_path, fill, name):
    fill(tmp_path, **{f"{name}/a.jpg": None})
    folder = read_folder(tmp_path, default_caption="d")
    assert folder.layout == "sidecar" and folder.examples[0].repeats == 1
    assert folder.examples[0].captions == ("d",)


def test_bad_images_and_captions_are_left_out_by_name(tmp_path, fill, jpeg):
    fill(tmp_path, **{"good.jpg": jpeg(64, 64), "half.jpg": jpeg(64, 64)[:600], "small.jpg": jpeg(64, 31)})
    fill(tmp_path, **{"empty.png": b"", "text.png": b"hello", "raw.cr2": b"x", "f.jpg": jpeg(64, 64)})
    fill(tmp_path, **{"f.txt": b"\xe9"})
    folder = read_folder(tmp_path, min_side=32)
    assert list(captions(folder)) == ["good.jpg"]
    told = reasons(folder)
    assert set(told) == {"half.jpg", "small.jpg", "empty.png", "text.png", "raw.cr2", "f.jpg"}
    assert "64 x 31 pixels; the short side needs 32. Use a larger copy" in told["small.jpg"]
    assert "f.txt is not UTF-8" in told["f.jpg"] and "camera's raw" in told["raw.cr2"]
    assert all(str(tmp_path) not in reason and reason.endswith(".") for reason in told.values())


def test_damage_behind_the_header_is_seen_only_when_verified(tmp_path, fill, jpeg):
    fill(tmp_path, **{"a.jpg": jpeg(200, 200)[:2000], "b.jpg": None})
    assert list(captions(read_folder(tmp_path, verify=False))) == ["a.jpg", "b.jpg"]
    assert list(captions(read_folder(tmp_path))) == ["b.jpg"]


def test_a_placeholder_without_a_trigger_is_named(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "a.txt": "a [trigger]", "b.jpg": None})
    assert "no trigger. Set data.trigger" in reasons(read_folder(tmp_path))["a.jpg"]


def test_nothing_usable(tmp_path, fill):
    with raises(BadData):
        read_folder(tmp_path)
    fill(tmp_path, **{"a.jpg": b"x", "b.jpg": b""})
    with raises(BadData):
        read_folder(tmp_path)


def test_the_place_of_the_folder_does_not_count(tmp_path, fill):
    one = fill(
        tmp_path / "one", **{f"{name}.jpg": None for name in "zyxB"}, **{"b/a.jpg": None, "bad.png": "x"}
    )
    shutil.copytree(one, tmp_path / "elsewhere")
    here, there = read_folder(one), read_folder(tmp_path / "elsewhere")
    assert [one.sha256 for one in here.examples] == [one.sha256 for one in there.examples]
    assert captions(here) == captions(there) and reasons(here) == reasons(there)
    assert list(captions(here)) == ["B.jpg", "b/a.jpg", "x.jpg", "y.jpg", "z.jpg"]


def test_damaged_folders_give_images_or_named_errors(tmp_path, fill, jpeg):
    draw = np.random.default_rng(11)
    picture, table = jpeg(), json.dumps({"file_name": "a.jpg", "text": "x"}).encode()
    for turn in range(60):
        root = tmp_path / str(turn)
        files = {"a.jpg": picture, "b.jpg": picture, "b.txt": b"a cat"}
        files |= {"metadata.jsonl": table} if turn % 2 else {}
        for name in files:
            data = bytearray(files[name][: draw.integers(1, len(files[name]) + 1)])
            data[draw.integers(len(data))] = draw.integers(256)
            files[name] = bytes(data) if draw.random() < 0.6 else files[name]
        fill(root, **files)
        try:
            folder = read_folder(root)
        except BadData as error:
            assert str(root) in str(error) and "\n" not in str(error)
        else:
            named = {one.path.name for one in (*folder.examples, *folder.rejected)}
            assert {"a.jpg", "b.jpg"} <= named or "metadata.jsonl" in named


def test_no_torch():
    code = "import sys, limner.data.folder, limner.data.order; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
