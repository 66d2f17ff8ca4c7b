"""What was refused is told once."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from image_scenes import area

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
