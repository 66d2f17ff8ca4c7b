"""A blind vote between two cells of a judged grid: which image of a pair is better, and what that says.

The order of the pairs and the sides are drawn from the vote's own seed, so that a reload shows the same pair.
"""

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from limner.errors import BadData
from limner.files import write_json
from limner.run_folder import RunDir

IMAGE = re.compile(
    r"(?P<prompt>.+)-strength(?P<strength>[-\d.e+]+)-seed(?P<seed>\d+)-(?P<mark>[0-9a-f]+)\.png"
)
Z = 1.96
"""Of a two-sided interval of 95 %."""

Cell = tuple[int, float]
"""Training step and strength; (0, 0) is the base."""


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt and seed."""

    key: str
    """Prompt and seed."""
    left: Path
    right: Path
    swapped: bool
    """Whether the left one is of the second cell."""


def images_of(run: RunDir, cell: Cell) -> dict[str, Path]:
    """The images of a cell that are there, by prompt and seed."""
    step, strength = cell
    folder = run.judge_images_path / f"step-{step:06d}"
    images: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else ():
        match = IMAGE.fullmatch(path.name)
        if match and math.isclose(float(match["strength"]), strength):
            images[f"{match['prompt']} {match['seed']}"] = path
    return images


def pairs(run: RunDir, first: Cell, second: Cell) -> list[Pair]:
    """The pairs of two cells, in a drawn order with drawn sides: the same at every call."""
    images, rivals = images_of(run, first), images_of(run, second)
    keys = [key for key in images if key in rivals]
    draw = random.Random(f"{first} {second} {len(keys)}")
    draw.shuffle(keys)
    result = []
    for key in keys:
        swapped = draw.random() < 0.5
        left, right = (rivals, images) if swapped else (images, rivals)
        result.append(Pair(key, left[key], right[key], swapped))
    return result


def read_votes(run: RunDir, first: Cell, second: Cell) -> dict[str, bool]:
    """Prompt and seed -> whether the first cell's image was preferred."""
    record = run.read(_path(run))
    votes = record.get(_name(first, second), {}) if isinstance(record, dict) else {}
    return {str(key): bool(value) for key, value in votes.items()} if isinstance(votes, dict) else {}


def add_vote(run: RunDir, first: Cell, second: Cell, key: str, *, for_first: bool) -> None:
    """Keep a vote in the run folder."""
    try:
        record = run.read(_path(run))
    except BadData:
        record = None
    table: Mapping[str, object] = record if isinstance(record, dict) else {}
    votes = {**read_votes(run, first, second), key: for_first}
    write_json(_path(run), {**table, _name(first, second): votes})


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Args:
        successes: Of ``count``.
        count: At least 1.
    """
    share, square = successes / count, Z**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def cells_of(record: Mapping[str, object]) -> list[Cell]:
    """The cells of ``judge.json``, the base first."""
    rows = record.get("cells")
    if not isinstance(rows, list):
        return []
    return [(int(row["step"]), float(row["strength"])) for row in rows]


def _path(run: RunDir) -> Path:
    return run.judge_images_path / "votes.json"


def _name(first: Cell, second: Cell) -> str:
    return json.dumps([*first, *second])
