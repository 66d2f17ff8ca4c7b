import json

import pytest
from PIL import Image

from limner.data.folder import read_folder
from limner.data.images import small_remedy
from limner.data.summary import not_filling, shared_captions, what_was_read
from limner.data.views import Scale, buckets
from limner.errors import BadData
from messages import raises


def lines(root, **options):
    return what_was_read(read_folder(root, **options), **options)


def test_captions_are_counted_by_where_they_are_from(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "a.txt": "x\ny", "b.jpg": None, "b.caption": "z", "c.jpg": None})
    assert lines(tmp_path, trigger="zxq") == [
        "Read: 3 images (text files beside the images); captions: 1 in .txt, 1 in .caption, 1 without "
        "(1 of them in several variants, a line each).",
        '1 of 3 images have no caption: training sees "zxq" alone. Write captions, or run: limner caption',
    ]


def test_missing_captions_are_told_with_what_training_sees_instead(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "b.jpg": None, "b.txt": "x"})
    assert 'training sees "a thing" alone' in lines(tmp_path, trigger="zxq", default_caption="a thing")[-1]
    assert "and there is no trigger: it teaches what the empty prompt generates" in lines(tmp_path)[-1]
    fill(tmp_path, **{"a.txt": "y"})
    assert lines(tmp_path) == ["Read: 2 images (text files beside the images); captions: 2 in .txt."]


def test_kohyas_repeats_and_the_captions_by_name_are_told(tmp_path, fill):
    fill(tmp_path, **{"3_cat/a.jpg": None, "3_cat/b.jpg": None, "05_dog/c.jpg": None, "05_dog/c.txt": "x"})
    assert lines(tmp_path) == [
        "Read: 3 images (kohya folders: 05_dog x 5, 3_cat x 3; 11 draws an epoch); captions: 1 in .txt, "
        "2 by the folder's name."
    ]


def test_the_resolution_that_keeps_all_small_images_is_said(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "a.txt": "x", "b.jpg": None, "b.txt": "y"})
    with raises(BadData):
        read_folder(tmp_path, min_side=64)
    Image.new("RGB", (64, 64)).save(tmp_path / "c.png")
    assert what_was_read(read_folder(tmp_path, min_side=64))[1] == (
        "Too small: 2 images (a.jpg, b.jpg). Use larger copies, or keep all by data.resolution = 64 or "
        "data.min_side = 32."
    )
    assert read_folder(tmp_path, min_side=64 // 2).rejected == ()
    assert small_remedy(15) == "Use a larger copy."


def test_splits_masks_and_files_that_are_not_read_are_told(tmp_path, fill):
    rows = [{"file_name": "a.jpg", "text": "x"}, {"file_name": "b.jpg", "text": None}]
    fill(
        tmp_path / "train",
        **{"metadata.jsonl": "\n".join(map(json.dumps, rows)), "a.jpg": None, "b.jpg": None},
    )
    fill(tmp_path, **{"train/a-mask.png": None, "test/c.jpg": None, "train/list.json": "x", "d.zip": "x"})
    told = lines(tmp_path, trigger="zxq")
    assert told[0] == "Read: 2 images (metadata.jsonl); captions: 1 in metadata.jsonl, 1 without."
    assert told[1] == (
        "Ignored: 1 mask or control image (train/a-mask.png). "
        "To train by the masks beside images: --set data.masks=sidecar"
    )
    assert told[2] == (
        "Not trained: test/, 1 image of another split. To measure on them: "
        f"--set data.validation_images={tmp_path / 'test'}"
    )
    assert told[3] == "Not read: 2 files (train/list.json, d.zip)."
    assert len(told) == 5


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("c.jpg.txt", " Captions of c.jpg stand in c.txt."),
        ("C.txt", " Captions of c.jpg stand in c.txt."),
        ("c.json", " Captions of c.jpg stand in c.txt."),
        ("d.tags", ""),
    ],
)
def test_a_slip_in_the_name_of_a_text_file_is_told(tmp_path, fill, file, hint):
    fill(tmp_path, **{"c.jpg": None, file: "x"})
    assert lines(tmp_path)[1] == f"Not read: 1 file ({file}).{hint}"


def test_two_images_that_share_one_text_file_are_told(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "a.png": None, "a.txt": "x", "x/a.jpg": None, "x/a.txt": "x"})
    told = "a.txt is the caption of a.jpg and a.png: they share one text file. Give one of them another name."
    assert lines(tmp_path)[1:] == [told]
    assert list(shared_captions(read_folder(tmp_path))) == ["a.txt"]


def test_images_that_do_not_fill_the_largest_of_several_resolutions_are_counted(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "b.jpg": None})
    examples = read_folder(tmp_path).examples
    side = min(examples[0].width, examples[0].height)
    scales = [Scale(buckets(size, multiple=1)) for size in (side // 2, side, 2 * side)]
    assert not_filling(examples, scales[:1]) == not_filling(examples, scales[:2]) == []
    assert not_filling(examples, scales) == [
        "2 of 2 images do not fill the largest resolution, and are seen at the next smaller one in its place."
    ]
