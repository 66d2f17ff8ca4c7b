"""A check and a fix are jobs."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from image_scenes import Queue, press
from limner.studio.workspace import Workspace

Draw = Callable[..., AppTest]


def test_a_check_and_a_fix_are_jobs(draw: Draw, cats: Path, workspace: Workspace, queue: Queue) -> None:
    app = draw("images", images="images/cats", view="check")
    next(box for box in app.text_input if box.label == "Trigger word").set_value("-zxq").run()
    press(app, "Check")
    arguments, options = queue.calls[0]
    assert arguments[:2] == ["check", str(cats)] and "--trigger=-zxq" in arguments
    assert {"--exit-zero", "--events", "--base=glyph"} < set(arguments) and options["device"] == "cpu"
    press(app, "Fix into a new folder")
    assert f"--fix={workspace.images / 'cats-fixed'}" in queue.calls[1][0]
