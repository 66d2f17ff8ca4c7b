"""Changes are on record, and can be taken back after a reload."""

from collections.abc import Callable
from pathlib import Path

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
