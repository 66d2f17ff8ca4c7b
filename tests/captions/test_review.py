import json
import sys

import pytest
from PIL import Image

from limner.captions.review import apply, edit, lay_out
from limner.captions.store import CaptionStore
from limner.errors import BadData, BadUsage
from messages import raises

FACTS = {"by": "claude", "pass": "image"}


@pytest.fixture
def folder(tmp_path):
    shelf_of = tmp_path / "photos"
    shelf_of.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(shelf_of / name)
    shelf = CaptionStore(shelf_of)
    shelf.put("a.png", "00", ("a cat", "one cat"), FACTS)
    shelf.flag("b.png", "00", "refused", FACTS)
    (shelf_of / "c.txt").write_text("mine")
    return shelf_of


def test_the_table_shows_captions_flags_and_whose_they_are(folder):
    text = lay_out(folder).read_text()
    assert text.count("a.png\t") == 2
    assert "flagged: refused" in text
    assert "\tmine\t" in text
    assert "yours" in text


def test_edits_are_taken_over_and_are_the_persons_from_then_on(folder):
    path = lay_out(folder)
    path.write_text(path.read_text().replace("a cat", "a grey cat").replace("b.png\t\t", "b.png\ta dog\t"))
    assert apply(folder) == ["a.png", "b.png"]
    assert (folder / "a.txt").read_text() == "a grey cat\none cat\n"
    assert (folder / "b.txt").read_text() == "a dog\n"
    shelf = CaptionStore(folder)
    assert [shelf.state(file) for file in shelf.files] == ["by hand"] * 3
    row = json.loads((folder / "captions.jsonl").read_text().splitlines()[0])
    assert (row["by"], row["pass"], row["before"]) == ("hand", "review", ["a cat", "one cat"])
    assert apply(folder) == []
    assert lay_out(folder) == path


def test_all_is_taken_over_or_nothing(folder):
    path = lay_out(folder)
    path.write_text(path.read_text().replace("a cat", "a grey cat").replace("b.png", "x.png"))
    with raises(BadData):
        apply(folder)
    assert (folder / "a.txt").read_text() == "a cat\none cat\n"
    with raises(BadUsage):
        lay_out(folder)


def test_edits_are_not_lost_to_a_new_table(folder):
    path = lay_out(folder)
    path.write_text(path.read_text().replace("a cat", "a grey cat"))
    with raises(BadUsage):
        lay_out(folder)


def test_there_must_be_a_table(folder):
    with raises(BadData):
        apply(folder)


def test_an_editor_is_waited_for(folder, monkeypatch):
    path = lay_out(folder)
    swap = (
        "import sys, pathlib as l; p = l.Path(sys.argv[1]); p.write_text(p.read_text().replace('mine', 'x'))"
    )
    assert edit(path, f'{sys.executable} -c "{swap}"')
    assert apply(folder) == ["c.png"]
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert not edit(path)
    with raises(BadUsage):
        edit(path, "no-such-editor-here")
    with raises(BadUsage):
        edit(path, f'{sys.executable} -c "raise SystemExit(3)"')
