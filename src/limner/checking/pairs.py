"""Pairs of an edit model: control images that equal their target, are another's, or have nothing of it.

By looks alone; no model is asked. What is unlike its target is told only where pairs of the set are plainly
more alike than strangers are: a reference of a person and a picture of her may share nothing that shows here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from limner.checking import variety
from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import THUMB, ImageStats, jpeg_of
from limner.data import near_duplicates
from limner.data.control import ControlImage
from limner.data.images import decode

SIDE = 24
"""Pixels of the squares by which a control image and its target are held to be one picture."""
MAX_LEVELS = 10.0
"""Levels of 255, of the mean of three colours, that such squares differ in at most, after a JPEG too."""
REMEDY = "Put the image before the edit into the folder of control images, or remove the pair."
LAYOUT_SIDE = 16
MIN_PAIRS = 6
"""Pairs below which nothing is said about similarity to others."""
MIN_LEAD = 0.3
"""How much more alike the likest control image of a target is than the next, in the middle of a set of pairs
that are known by their looks. Similarity goes from -1 to 2; darkened, gray and blurred pictures lead by 0.7
and more, strangers and line drawings by 0.15."""
STRANGE = 0.35
"""Way from how alike strangers are to how alike pairs of the set are, below which a pair is of strangers."""


@dataclass(frozen=True, eq=False)
class ControlStats:
    """A control image in figures."""

    control: ControlImage
    looks: np.ndarray
    """What similarity is of: layout in gray, and features."""
    square: np.ndarray
    """(24, 24, 3) float32, 0..255."""
    phash: near_duplicates.PerceptualHash
    jpeg: bytes
    """At most ``THUMB`` pixels a side, as a JPEG file."""


def measure_control(control: ControlImage) -> ControlStats:
    """Measure a control image.

    Raises:
        BadImage: The file cannot be read.
    """
    image = _read(control.path)
    pixels = np.asarray(image)
    return ControlStats(
        control, _looks(image), _square(image), near_duplicates.perceptual_hash(pixels), jpeg_of(image)
    )


def of_pairs(
    looks: Sequence[ImageStats], names: Sequence[str], controls: Sequence[Sequence[ControlStats]]
) -> list[Finding]:
    """Control images that equal their target, belong to another, or are like none.

    Args:
        looks: The targets.
        names: Of them.
        controls: Of each its control images, each as many.
    """
    findings: list[Finding] = []
    for number in range(len(controls[0]) if controls else 0):
        column = [row[number] for row in controls]
        for item, name, control in zip(looks, names, column, strict=True):
            if item.example.sha256 == control.control.sha256:
                reason = "its control image is the target itself, which teaches to change nothing"
                findings.append(Finding(name, PROBLEM, "identical-pair", reason, REMEDY))
            elif _is_same(item, control):
                reason = "its control image looks as the target does, which teaches to change nothing"
                findings.append(Finding(name, ADVICE, "identical-pair", reason, REMEDY))
        if len(looks) >= MIN_PAIRS:
            similarity = (
                np.stack([_looks(item.thumb) for item in looks]) @ np.stack([c.looks for c in column]).T
            )
            findings += _strangers(similarity, names, [c.control.path.name for c in column])
    return findings


def _strangers(similarity: np.ndarray, names: Sequence[str], files: Sequence[str]) -> list[Finding]:
    """Pairs that are another's, or no pairs, of (N, N) similarityes of targets to control images."""
    ranking = np.sort(similarity, axis=1)
    if np.median(ranking[:, -1] - ranking[:, -2]) < MIN_LEAD:
        return [
            Finding(
                "",
                NOTE,
                "pairs",
                "targets are no more like their own control image than like others, so no swap can be found",
                "Look at the pairs on the page.",
            )
        ]
    best, best_target = similarity.argmax(axis=1), similarity.argmax(axis=0)
    pairs = similarity.diagonal()
    strangers = np.median(similarity[~np.eye(len(names), dtype=bool)])
    limit = strangers + STRANGE * (np.median(pairs) - strangers)
    findings: list[Finding] = []
    for index, name in enumerate(names):
        partner = int(best[index])
        if partner != index and best_target[partner] == index:
            reason = (
                f"its control image is {files[index]}, and it looks like {files[partner]}, that of another"
            )
            remedy = "Swap the names of the control images."
            findings.append(Finding(name, PROBLEM, "swapped-pair", reason, remedy))
        elif pairs[index] < limit:
            reason = f"its control image {files[index]} is no more like it than those of others are"
            findings.append(
                Finding(name, ADVICE, "unrelated-pair", reason, "Give it its own, or remove the pair.")
            )
    return findings


def _looks(image: Image.Image) -> np.ndarray:
    """Layout in gray without mean and contrast, and features: two vectors of length 1 in one."""
    gray = image.convert("L").resize((LAYOUT_SIDE, LAYOUT_SIDE), Image.Resampling.BOX)
    layout = np.asarray(gray, np.float32).ravel()
    layout = layout - layout.mean()
    layout = layout / (np.linalg.norm(layout) + 1e-6)
    return np.concatenate([layout, variety.features(np.asarray(image))])


def _square(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def _is_same(target: ImageStats, control: ControlStats) -> bool:
    """Whether two files show one picture; the target is read again, whole, where its crop is near it."""
    if not near_duplicates.near(target.phash, control.phash):
        return False
    difference = np.abs(_square(_read(target.example.path)) - control.square)
    return float(difference.mean(axis=2).max()) <= MAX_LEVELS


def _read(path: Path) -> Image.Image:
    image, _ = decode(path, (THUMB, THUMB))
    image = image.convert("RGB")
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    return image
