import pytest
from PIL import Image

from limner.captions.store import CaptionStore
from limner.errors import BadData
from messages import raises

FACTS = {"by": "claude", "pass": "image"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def test_captions_are_put_beside_their_images(folder):
    shelf = CaptionStore(folder)
    assert shelf.files == ("a.png", "b.png", "sub/c.jpg")
    assert {shelf.state(file) for file in shelf.files} == {"missing"}
    assert shelf.put("sub/c.jpg", "00", ("one", "two"), FACTS)
    assert (folder / "sub/c.txt").read_text() == "one\ntwo\n"
    assert shelf.state("sub/c.jpg") == "ours"
    assert shelf.captions("sub/c.jpg") == ("one", "two")
    assert shelf.texts() == {"sub/c.jpg": "one\ntwo\n"}
    assert shelf.put("sub/c.jpg", "00", ("three",), FACTS)
    assert shelf.record.rows["sub/c.jpg"].facts["before"] == ["one", "two"]


def test_a_persons_text_is_not_touched_in_whatever_form(folder):
    (folder / "a.txt").write_text("mine")
    (folder / "b.caption").write_text("mine too")
    (folder / "sub/c.txt").write_bytes(b"\xff\xfe\x00broken")
    shelf = CaptionStore(folder)
    for file in shelf.files:
        assert shelf.state(file) == "by hand"
        assert not shelf.put(file, "00", ("ours",), FACTS)
    assert (folder / "b.caption").read_text() == "mine too"
    assert not (folder / "captions.jsonl").exists()


def test_an_empty_text_is_no_caption(folder):
    (folder / "a.txt").write_text("\n  \n")
    shelf = CaptionStore(folder)
    assert shelf.state("a.png") == "missing"
    assert shelf.put("a.png", "00", ("ours",), FACTS)


def test_flags_leave_what_was_ours_ours(folder):
    shelf = CaptionStore(folder)
    shelf.put("a.png", "00", ("ours",), FACTS)
    shelf.flag("a.png", "00", "refused", FACTS)
    shelf.flag("b.png", "00", "refused", FACTS)
    again = CaptionStore(folder)
    assert again.state("a.png") == "ours"
    assert again.state("b.png") == "missing"
    assert {row.facts["flag"] for row in again.record.rows.values()} == {"refused"}


def test_what_was_answered_is_restored_and_what_a_person_says_is_theirs(folder):
    shelf = CaptionStore(folder)
    shelf.put("a.png", "00", ("ours",), FACTS)
    (folder / "a.txt").unlink()
    again = CaptionStore(folder)
    assert again.state("a.png") == "answered"
    again.restore("a.png")
    assert again.state("a.png") == "ours"
    again.edit("a.png", "00", ("theirs",), {"by": "hand", "pass": "review"})
    assert again.state("a.png") == "by hand"
    assert (folder / "a.txt").read_text() == "theirs\n"


def test_same_names_and_metadata_are_seen(folder):
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    (folder / "sub/metadata.csv").write_text("file_name,text\nc.jpg,mine\n")
    shelf = CaptionStore(folder)
    assert (shelf.state("a.jpg"), shelf.state("a.png"), shelf.state("sub/c.jpg")) == (
        "missing",
        "shared",
        "listed",
    )
    assert shelf.shared_with("a.png") == "a.jpg"


def test_a_folder_without_images_is_refused(tmp_path):
    with raises(BadData):
        CaptionStore(tmp_path)
