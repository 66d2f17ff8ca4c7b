"""The demo's workspace."""

from limner.studio.demo import SETS, lay_out
from limner.studio.images.image_set import ImageSet
from limner.studio.recipes import purpose_of
from limner.studio.workspace import Workspace


def test_the_demo_lays_its_images_and_touches_none_that_are_there(workspace: Workspace) -> None:
    lay_out(workspace)
    assert [path.name for path in workspace.image_folders()] == sorted(SETS.values())
    own = workspace.images / "mascot" / "own.txt"
    own.write_text("mine")
    lay_out(workspace)
    assert own.read_text() == "mine"


def test_the_demo_says_what_its_images_are_for(workspace: Workspace) -> None:
    lay_out(workspace)
    purposes = {path.name: purpose_of(ImageSet(workspace, path)) for path in workspace.image_folders()}
    assert {name: values["concept_type"] for name, values in purposes.items()} == {
        "blueprint-style": "style",
        "mascot": "subject",
    }
    assert {(values["base"], values["data.trigger"]) for values in purposes.values()} == {("glyph", "zorbix")}
