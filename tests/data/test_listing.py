import os
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from PIL import Image

from limner.data import listing as listing_module
from limner.data.file_index import image_sizes
from limner.data.listing import MIN_KEPT, listed, printable
from limner.errors import BadData
from messages import raises


def test_files_by_kind_in_sorted_order(tmp_path, fill):
    fill(tmp_path, **{"b.JPG": None, "a/c.png": None, "a/c.txt": "x", "a/c.caption": "y", "notes.md": "x"})
    fill(tmp_path, **{"a/metadata.csv": "x", "metadata.jsonl": "x", ".hidden.jpg": None, ".git/d.jpg": None})
    found = listed(tmp_path)
    assert found.images == ["a/c.png", "b.JPG"]
    assert found.texts == {"a/c": "a/c.txt"}
    assert found.metadata == ["a/metadata.csv", "metadata.jsonl"]
    assert found.rejected == []


def test_what_cannot_be_used_is_named(tmp_path, fill):
    strange = {"b.nef", "c.mp4", "d.psd", "e.jxr", "f.svgz", "metadata.parquet"}
    fill(tmp_path, **{"a.jpg": None, **dict.fromkeys(strange, "x")})
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "ring.jpg").symlink_to("ring.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    found = dict(listed(tmp_path).rejected)
    assert set(found) == strange | {"gone.jpg", "ring.jpg", "pipe.png"}
    assert "camera's raw file" in found["b.nef"] and "video" in found["c.mp4"]
    assert "metadata.jsonl" in found["metadata.parquet"] and "link to nothing" in found["ring.jpg"]


def test_captions_that_are_no_files_are_named(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "a.txt/inside": "x", "metadata.csv/inside": "x"})
    (tmp_path / "b.caption").symlink_to("nowhere")
    (tmp_path / "metadata.jsonl").symlink_to("metadata.jsonl")
    os.mkfifo(tmp_path / "c.txt")
    fill(tmp_path, **{"d.png/e.jpg": None})
    found = listed(tmp_path)
    assert (found.texts, found.metadata) == ({}, [])
    assert [file for file, _ in found.rejected] == [
        "a.txt",
        "b.caption",
        "c.txt",
        "d.png",
        "metadata.csv",
        "metadata.jsonl",
    ]
    assert found.rejected.pop(3) == ("d.png", "has the name of a picture, and is a folder. Rename it.")
    assert all("and is no file" in reason for _, reason in found.rejected)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a-masklabel.png"),
        ("a.jpg", "a-mask.png"),
        ("a.jpg", "a_mask.png"),
        ("a.jpg", "a.mask.png"),
        ("a.jpg", "a_Mask.PNG"),
        ("a.jpg", "a-condlabel.png"),
        ("x/a.jpg", "x/a_control.png"),
        ("x/a.jpg", "x/masks/a.png"),
        ("images/a.jpg", "masks/a.png"),
        ("a.jpg", "conditioning_images/a.png"),
        ("a.jpg", "mask/a_mask.png"),
    ],
)
def test_masks_and_control_images_are_no_images(tmp_path, fill, image, mask):
    fill(tmp_path, **{image: None, mask: None, "b.jpg": None})
    found = listed(tmp_path)
    assert found.images == sorted(["b.jpg", image]) and found.masks == [mask]


@pytest.mark.parametrize(
    "name", ["b_mask.png", "mask.png", "a-maskot.png", "masks/b.png", "x/a_mask.png", "amask.png"]
)
def test_what_is_the_mask_of_nothing_is_an_image(tmp_path, fill, name):
    fill(tmp_path, **{"a.jpg": None, name: None})
    assert listed(tmp_path).images == sorted(["a.jpg", name]) and listed(tmp_path).masks == []


def test_what_has_a_caption_of_its_own_is_no_mask(tmp_path, fill):
    fill(tmp_path, **{"cat.jpg": None, "cat_mask.jpg": None, "cat_mask.txt": "a cat with a mask"})
    assert listed(tmp_path).images == ["cat.jpg", "cat_mask.jpg"]


stems = st.text(st.characters(categories=["L", "N", "Zs", "Pd"], max_codepoint=0x24F), min_size=1, max_size=6)


@hypothesis.given(stems.filter(lambda stem: stem.strip(" .") == stem), st.sampled_from("-_."))
def test_a_mask_is_found_for_every_name(tmp_path_factory, stem, separator):
    root = tmp_path_factory.mktemp("names")
    for name in (f"{stem}.png", f"{stem}{separator}mask.png"):
        (root / name).write_bytes(b"x")
    assert (listed(root).images, listed(root).masks) == ([f"{stem}.png"], [f"{stem}{separator}mask.png"])


@pytest.mark.parametrize(
    "name", ["@eaDir", "$RECYCLE.BIN", "__MACOSX", "#recycle", "System Volume Information"]
)
def test_folders_of_systems_are_passed_over(tmp_path, fill, name):
    fill(tmp_path, **{"a.jpg": None, f"{name}/b.jpg": None, f"x/{name.lower()}/c.jpg": None, "x/d.jpg": None})
    assert listed(tmp_path).images == ["a.jpg", "x/d.jpg"]


def test_test_and_validation_images_of_an_imagefolder_are_not_trained(tmp_path, fill):
    files = ["train/a.jpg", "test/b.jpg", "test/x/c.jpg", "Validation/d.jpg", "train/val/e.jpg"]
    fill(
        tmp_path, **dict.fromkeys(files), **{"test/metadata.csv": "x", "test/c.json": "x", "test/f.nef": "x"}
    )
    found = listed(tmp_path)
    assert found.images == ["train/a.jpg", "train/val/e.jpg"]
    assert found.splits == {"test": 2, "Validation": 1}
    assert (found.metadata, found.unread_texts, found.rejected) == ([], [], [])


def test_a_split_alone_is_trained(tmp_path, fill):
    fill(tmp_path, **{"test/a.jpg": None, "val/b.jpg": None})
    assert listed(tmp_path).images == ["test/a.jpg", "val/b.jpg"] and listed(tmp_path).splits == {}
    fill(tmp_path, **{"data/train/a.jpg": None})
    assert listed(tmp_path).images == ["data/train/a.jpg"]
    fill(tmp_path, **{"data/eval/a.jpg": None})
    assert listed(tmp_path).splits == {"test": 1, "val": 1, "data/eval": 1}


def test_text_files_that_belong_to_no_image_are_named(tmp_path, fill):
    own = dict.fromkeys(("README.md", "readme.txt", "LICENSE.txt", "captions.jsonl"), "x")
    fill(tmp_path, **{"a.jpg": None, "a.txt": "x", "a.caption": "y", **own})
    strays = ["E.txt", "a.jpg.txt", "a.json", "b.caption", "c.tags", "d.cap", "meta_cap.json", "x/list.csv"]
    fill(tmp_path, **dict.fromkeys(strays, "x"))
    found = listed(tmp_path)
    assert found.unread_texts == sorted([*strays, "a.caption"])
    assert found.texts == {"a": "a.txt"}


def test_archives_beside_images_are_named(tmp_path, fill):
    fill(tmp_path, **{"a.jpg": None, "more.zip": "x", "x/b.parquet": "x", "c.pdf": "x"})
    assert sorted(listed(tmp_path).archives) == ["more.zip", "x/b.parquet"]


def test_odd_endings_are_read_or_named(tmp_path, fill):
    fill(tmp_path, **{"a.jpg_large": None, "noext": None, "b.part": None, "lock": "", "c.mpo": None})
    found = listed(tmp_path)
    assert found.images == ["a.jpg_large", "c.mpo", "noext"]
    assert [file for file, _ in found.rejected] == ["b.part"]


def test_links_to_files_count_and_rings_of_folders_end(tmp_path, fill):
    root = fill(tmp_path / "in", **{"sub/a.jpg": None})
    fill(tmp_path / "out", **{"secret.jpg": None})
    (root / "b.jpg").symlink_to("sub/a.jpg")
    (root / "sub" / "up").symlink_to("..")
    (root / "sub" / "out").symlink_to(tmp_path / "out")
    (root / "self").symlink_to("self")
    found = listed(root)
    assert found.images == ["b.jpg", "sub/a.jpg"]
    assert [file for file, _ in found.rejected] == ["sub/out", "sub/up"]
    assert all("link to a folder, which is not followed" in reason for _, reason in found.rejected)


def test_a_name_that_is_no_text_is_named_readably(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\xe9.jpg")).write_bytes(b"x")
    ((file, reason),) = listed(tmp_path).rejected
    assert "not UTF-8. Rename it" in reason
    assert printable(file) == "\ufffd\ufffd.jpg"


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, fill, monkeypatch):
    fill(tmp_path, **{"a.jpg": None, "locked/b.jpg": None})
    whole = os.scandir

    def scandir(path):
        if str(path).endswith(refused):
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = "locked"
    assert listed(tmp_path).rejected == [
        ("locked", "cannot be read (Permission denied). Check its permissions.")
    ]
    refused = tmp_path.name
    with raises(BadData):
        listed(tmp_path)


def test_no_folder(tmp_path):
    with raises(BadData):
        listed(tmp_path / "no")
    (tmp_path / "file").write_text("x")
    with raises(BadData):
        listed(tmp_path / "file")


def test_sizes_are_read_from_headers_and_what_is_no_image_is_passed_over(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"torn")
    assert image_sizes(tmp_path) == [(30, 20)]
    assert image_sizes(tmp_path / "nowhere") == []


def many(root: Path) -> None:
    """So many images that a listing may be kept, in folders that were made a while ago."""
    for number in range(MIN_KEPT):
        folder = root / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").touch()
    for folder in (root, root / "0", root / "1"):
        os.utime(folder, (1e9, 1e9))


def test_a_large_folder_is_listed_once_for_several_who_ask(tmp_path, monkeypatch):
    root = tmp_path / "images"
    many(root)
    monkeypatch.setattr(listing_module, "SETTLE_SECONDS", -60)  # the inodes have just been changed
    first = listed(root, keep=True)
    assert listed(root, keep=True) is first and listed(root) is first, "who does not keep it is given it"
    assert listed(root) is not first and listed(root) == first

    listed(root, keep=True)
    (root / "1" / "new.png").touch()
    assert len(listed(root, keep=True).images) == MIN_KEPT + 1, "a folder has changed"
    (root / "0").rename(root / "zero")
    assert listed(root).images[0] == "1/1.png"


@pytest.mark.parametrize("case", ["just touched", "a link", "an odd file", "a fault", "few"])
def test_what_folders_do_not_tell_of_is_listed_anew(tmp_path, monkeypatch, case):
    root = tmp_path / "images"
    many(root)
    monkeypatch.setattr(listing_module, "SETTLE_SECONDS", 2 if case == "just touched" else -60)
    match case:
        case "a link":
            (root / "link.png").symlink_to(root / "0" / "0.png")
        case "an odd file":
            (root / "picture").write_bytes(b"x")
        case "a fault":
            (root / "gone.png").symlink_to(root / "none")
        case "few":
            (root / "0" / "0.png").unlink()
    first = listed(root, keep=True)
    assert listed(root, keep=True) is not first and listed(root) == first
