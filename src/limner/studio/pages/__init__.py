"""The pages of the studio: one file each, with one function ``page`` that draws it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PageFacts:
    """A page before it is loaded."""

    name: str
    """Of its file, and in the address."""
    title: str
    icon: str
    is_first: bool = False

    def draw(self) -> Callable[[], None]:
        """Its function, loaded now."""
        return importlib.import_module(f"{__name__}.{self.name}").page


PAGES = (
    PageFacts("home", "Home", ":material/home:", is_first=True),
    PageFacts("images", "Images", ":material/image:"),
    PageFacts("plan", "Plan and recipe", ":material/tune:"),
    PageFacts("run", "Run", ":material/play_circle:"),
    PageFacts("judge", "Judge and choose", ":material/balance:"),
    PageFacts("generate", "Generate", ":material/brush:"),
    PageFacts("instant", "Instant", ":material/bolt:"),
    PageFacts("files", "Files", ":material/folder_open:"),
    PageFacts("doctor", "Doctor", ":material/stethoscope:"),
)
"""In the order in which they are shown."""
