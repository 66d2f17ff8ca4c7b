"""What is wrong with masks: inverted, without effect, missing, or of the name of no image."""

from collections.abc import Sequence
from pathlib import Path

from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import ImageStats
from limner.data.folder import Folder
from limner.data.masks import require_masks
from limner.errors import BadData

MIN_RIM, MAX_MIDDLE = 0.75, 0.25
"""Shares that are white of a mask that was probably painted the other way round."""
MIN_SHARE = 0.02
"""Of the crop: a smaller subject is a few places of the latent."""


def of_masks(
    looks: Sequence[ImageStats], names: Sequence[str], folder: Folder, source: Path | str | None
) -> list[Finding]:
    """What is wrong with the masks of a set. Those that leave an image out are told with it.

    Args:
        looks: One for each image.
        names: Their paths below the folder.
        folder: What was read.
        source: ``data.masks``; None: nothing is said.
    """
    if source is None:
        return []
    try:
        require_masks(folder.root, source, [item.example.mask for item in looks], folder.rejected)
    except BadData as error:
        reason, _, remedy = str(error).partition(". ")
        return [Finding("", PROBLEM, "mask", reason, remedy), *_surplus(folder)]
    findings = [
        Finding(name, *fault) for item, name in zip(looks, names, strict=True) for fault in _faults(item)
    ]
    return findings + _surplus(folder)


def _faults(look: ImageStats) -> list[tuple[str, str, str, str]]:
    """(level, kind, reason, remedy) of each."""
    mask = look.mask
    if mask is None:
        return [(ADVICE, "mask", "has no mask: all of it counts", "Add one, if that is not meant.")]
    if mask.flat:
        return [
            (NOTE, "mask", "its mask has one value all over, and changes nothing", "Paint it, or remove it.")
        ]
    if mask.rim > MIN_RIM and mask.middle < MAX_MIDDLE:
        reason = f"its mask is white around ({mask.rim:.0%}) and black in the middle ({mask.middle:.0%})"
        return [(ADVICE, "mask", reason, "White is learned: invert it, unless the surroundings are meant.")]
    if mask.share < MIN_SHARE:
        reason = f"its mask leaves {mask.share:.1%} of the crop"
        return [(ADVICE, "mask", reason, "Crop the image closer to what counts.")]
    return []


def _surplus(folder: Folder) -> list[Finding]:
    remedy = "Name it after its image, as cat-mask.png after cat.jpg, or remove it."
    return [
        Finding(folder.named(path), ADVICE, "mask", "is a mask whose name no image bears", remedy)
        for path in folder.surplus_masks
    ]
