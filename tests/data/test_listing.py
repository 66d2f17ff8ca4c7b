import os

from limner.data.listing import listed, printable
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
    fill(tmp_path, **{"a.jpg": None, "b.nef": "x", "c.mp4": "x", "d.psd": "x", "metadata.parquet": "x"})
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "ring.jpg").symlink_to("ring.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    found = dict(listed(tmp_path).rejected)
    assert set(found) == {"b.nef", "c.mp4", "d.psd", "metadata.parquet", "gone.jpg", "ring.jpg", "pipe.png"}
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
