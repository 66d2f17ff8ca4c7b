"""The demo's workspace: the images that the package brings, ready to be trained on the embedded base."""

import shutil

from limner.bases.demo_sets import folder
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.workspace import Workspace

SETS = {"blueprint": "blueprint-style", "mascot": "mascot"}
"""Sets of the demo, and what their folders are called."""
STYLES = ("blueprint",)
TRIGGER = "zorbix"
"""What ``[trigger]`` in their captions stands for."""


def lay_out(workspace: Workspace) -> None:
    """Copy the demo's images into ``images/``, unless a folder of that name is there."""
    for name, title in SETS.items():
        target = workspace.images / title
        if not target.exists():
            shutil.copytree(folder(name), target)
            concept_type = "style" if name in STYLES else "subject"
            ImageSet(workspace, target).keep(SetSettings(TRIGGER, concept_type, "glyph"))
