"""Home: runs with their state."""

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from studio_scenes import make_run, words

Draw = Callable[..., AppTest]


def test_home_shows_runs_with_their_state(draw: Draw, workspace: Workspace) -> None:
    make_run(workspace, "cat", "running", seconds_left=75.0)
    make_run(workspace, "dog", "failed", line="The loss is not a number since step 7.")
    text = words(draw("home"))
    assert "step 20 of 100, 1 min 15 s left" in text
    assert "The loss is not a number since step 7" in text.replace("\\", "")
