"""What was refused is told once."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from image_scenes import area
from limner.errors import BadUsage
from limner.studio.complaints import line_of
from limner.studio.recipes import new_recipe
from limner.studio.workspace import Workspace
from studio_scenes import press

Draw = Callable[..., AppTest]


def test_a_caption_that_changed_meanwhile_is_not_overwritten(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats")
    (cats / "0.txt").write_text("by a captioner")
    area(app, "0.png").set_value("by hand").run()
    assert (cats / "0.txt").read_text() == "by a captioner" and area(app, "0.png").value == "by a captioner"
    assert "You had typed: by hand" in app.error[0].value.replace("\\", "")


def test_a_caption_that_is_too_long_is_told(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats")
    area(app, "0.png").set_value("x" * 9000).run()
    assert len(app.error) == 1 and area(app, "0.png").value == "x" * 9000
    assert "9000 characters" in app.error[0].value and (cats / "0.txt").read_text() == "a cat, number 0"


def test_what_a_button_cannot_do_is_a_line(draw: Draw, workspace: Workspace, cats: Path) -> None:
    new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("run", run="cat")
    (workspace.root / ".limner").write_text("no folder")
    press(app, "Start")
    assert len(app.error) == 1 and "jobs" in app.error[0].value.replace("\\", "")


def test_an_error_of_the_system_names_its_file_and_what_to_do() -> None:
    error = PermissionError(13, "Permission denied", "/x/y.json")
    assert line_of(error).startswith("/x/y.json: Permission denied. See to its permissions")
    assert line_of(BadUsage("As it is.")) == "As it is."
