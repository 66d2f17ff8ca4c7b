"""Images of one prompt side by side: along steps of training, strengths of the LoRA and seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from limner.files import write_new
from limner.generation.image_files import slug
from limner.report.sheet import sheet

GRID = "grid-"
"""How the names of grids begin."""


@dataclass(frozen=True)
class Cell:
    """What an image of a prompt differs in from the others."""

    trained_steps: int | None
    """Of the LoRA; None where it does not say."""
    strength: float
    seed: int

    @property
    def labels(self) -> tuple[str, str, str]:
        """For people, the widest axis of comparison first: it becomes the columns."""
        step = "" if self.trained_steps is None else f"step {self.trained_steps}"
        return f"strength {self.strength:g}", step, f"seed {self.seed}"


def write_grid(folder: Path, prompt: str, cells: Mapping[Cell, Path]) -> Path:
    """Lay out the images of a prompt: the first axis that varies makes the columns, the others the rows.

    Args:
        folder: Where to write it.
        prompt: What was asked for.
        cells: The images, by what they differ in.
    """
    axes = [list(dict.fromkeys(labels)) for labels in zip(*(cell.labels for cell in cells), strict=True)]
    column_axis = next((axis for axis, values in enumerate(axes) if len(values) > 1), 0)
    varying = [axis for axis, values in enumerate(axes) if len(values) > 1 and axis != column_axis]
    rows: dict[str, dict[str, Path]] = {}
    for cell, path in cells.items():
        name = ", ".join([prompt, *(cell.labels[axis] for axis in varying)])
        rows.setdefault(name, {})[cell.labels[column_axis]] = path
    images = [
        [_opened(row[label]) if label in row else None for label in axes[column_axis]]
        for row in rows.values()
    ]
    page = sheet(images, list(rows), axes[column_axis])
    return write_new(folder, f"{GRID}{slug(prompt)}", ".png", lambda draft: page.save(draft, format="PNG"))


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
