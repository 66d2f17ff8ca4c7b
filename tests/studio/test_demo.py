"""The demo's workspace."""

from limner.studio.demo import SETS, lay_out
from limner.studio.workspace import Workspace


def test_the_demo_lays_its_images_and_touches_none_that_are_there(workspace: Workspace) -> None:
    lay_out(workspace)
    assert [path.name for path in workspace.image_folders()] == sorted(SETS.values())
    own = workspace.images / "mascot" / "own.txt"
    own.write_text("mine")
    lay_out(workspace)
    assert own.read_text() == "mine"
