"""Changes are on record, and can be taken back after a reload."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from image_scenes import area, press
from limner.studio.images.history import History
from limner.studio.images.image_set import ImageSet
from limner.studio.workspace import Workspace

Draw = Callable[..., AppTest]


def test_a_caption_is_written_as_it_is_typed_and_taken_back_after_a_reload(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats")
    area(app, "0.png").set_value("a cat asleep\na sleeping cat").run()
    assert (cats / "0.txt").read_text() == "a cat asleep\na sleeping cat\n"
    area(app, "1.png").set_value("").run()
    assert not (cats / "1.txt").exists()
    again = draw("images", images="images/cats")  # another session
    assert any(button.help and button.help.endswith("taken back: 2") for button in again.button)
    press(again, "Undo")
    assert (cats / "1.txt").read_text() == "a cat, number 1\n" and area(again, "1.png").value
    press(again, "Undo")
    assert (cats / "0.txt").read_text() == "a cat, number 0\n"
    assert next(button for button in again.button if button.label == "Undo").disabled


def test_undo_leaves_what_was_changed_since(cats: Path, workspace: Workspace) -> None:
    images = ImageSet(workspace, cats)
    text = {"0.png": "one", "1.png": "two"}
    seen = {file: images.text(file) for file in text}
    assert History(images).write("both", text, seen) == []
    (cats / "0.txt").write_text("later")
    outcome = History(images).undo()
    assert outcome and outcome[1] == ["0.txt"]
    assert (cats / "0.txt").read_text() == "later" and images.text("1.png") == "a cat, number 1"
    assert History(images).undo() is None


def test_a_deleted_image_goes_with_what_belongs_to_it_and_comes_back(draw: Draw, cats: Path) -> None:
    Image.new("L", (96, 96)).save(cats / "0-mask.png")
    app = draw("images", images="images/cats")
    next(button for button in app.button if str(button.key).endswith("0.png")).click().run()
    assert sorted(path.name for path in cats.glob("0*")) == [] and len(app.text_area) == 3
    press(app, "Undo")
    assert sorted(path.name for path in cats.glob("0*")) == ["0-mask.png", "0.png", "0.txt"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_caption_of_a_metadata_file_is_edited_in_it_and_taken_back(
    draw: Draw, cats: Path, name: str
) -> None:
    lines = {
        "metadata.jsonl": '{"image": "0.png", "text": ["listed"]}\n{"image": "1.png", "text": "b"}\n',
        "metadata.csv": "file_name,text\n0.png,listed\n1.png,b\n",
    }
    (cats / name).write_text(lines[name])
    app = draw("images", images="images/cats")
    assert area(app, "0.png").value == "listed" and not area(app, "0.png").disabled
    area(app, "0.png").set_value("a  cat asleep\na cat").run()
    images = ImageSet(Workspace(cats.parents[1]), cats)
    assert images.caption("0.png") == "a cat asleep\na cat" and images.caption("1.png") == "b"
    assert (cats / "0.txt").read_text() == "a cat, number 0"  # which does not count
    area(app, "1.png").set_value("").run()
    again = draw("images", images="images/cats")
    press(again, "Undo")
    press(again, "Undo")
    assert (cats / name).read_text() == lines[name]


def test_undo_leaves_a_line_that_was_changed_since(cats: Path, workspace: Workspace) -> None:
    path = cats / "metadata.jsonl"
    path.write_text('{"file_name": "0.png", "text": "listed"}\n')
    images = ImageSet(workspace, cats)
    assert History(images).write("one", {"0.png": "mine"}, {"0.png": "listed"}) == []
    assert History(images).write("late", {"0.png": "other"}, {"0.png": "listed"}) == ["0.png"]
    path.write_text('{"file_name": "0.png", "text": "theirs"}\n')
    outcome = History(images).undo()
    assert outcome and outcome[1] == ["0.png"] and "theirs" in path.read_text()
