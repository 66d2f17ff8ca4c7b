"""Differential LoRAs: the two phases of [[pairs]], each a recipe of its own, and whether the pairs are pairs.

The LoRA of the images before is frozen while that of the images after is trained on top of it, so that the
second learns what the first did not: the difference.
"""

from pathlib import Path
from typing import Any, Literal

from limner.data.folder import Example, read_folder
from limner.errors import BadData
from limner.recipe.schema import ImagePair, Recipe
from limner.recipe.toml import change

Side = Literal["before", "after"]


def phase(recipe: Recipe, side: Side, adapter: Path | None = None) -> Recipe:
    """The recipe of one phase of a recipe with pairs.

    Args:
        recipe: With pairs.
        side: Which images are trained on. Those before are for the second phase alone: no samples are made.
        adapter: The LoRA of the images before, for the second phase.
    """
    folders = [getattr(pair, side) for pair in recipe.pairs]
    captions = [pair.caption for pair in recipe.pairs]
    changes: dict[str, Any] = {"pairs": (), "train.adapter": str(adapter) if adapter else ""}
    if len(folders) == 1:
        changes["data.images"] = folders[0]
        changes |= {"data.default_caption": captions[0]} if captions[0] else {}
    else:
        rows = zip(folders, captions, strict=True)
        changes["data.sets"] = [{"images": folder, "default_caption": caption} for folder, caption in rows]
    if side == "before":
        changes |= {"name": f"{recipe.name[:90]}-before", "sample.every": -1, "export.for": ("diffusers",)}
    return change(recipe, changes)


def require_pairs_alike(recipe: Recipe) -> None:
    """Raise ``BadData`` unless each image has a partner of its name, caption and shape on the other side.

    And unless there is a difference between the two sides.
    """
    for pair in recipe.pairs:
        before, after = (_by_name(recipe, pair, side) for side in ("before", "after"))
        for name in sorted(before.keys() ^ after.keys()):
            missing, folder = ("after", pair.before) if name in before else ("before", pair.after)
            raise BadData(
                f"{folder} holds {name}, and pairs.{missing} has no image of that name "
                f"({len(before.keys() & after.keys())} have a partner). Add it, or take {name} away."
            )
        if all(example.sha256 == after[name].sha256 for name, example in before.items()):
            raise BadData(
                f"All {len(before)} images of {pair.before} are the same in {pair.after}: there is no "
                "difference to learn. Name the folder of the images after the change."
            )
        for name, example in before.items():
            texts = [" | ".join(side.captions) for side in (example, after[name])]
            if texts[0] != texts[1]:
                raise BadData(
                    f'{name} is "{texts[0][:60]}" before and "{texts[1][:60]}" after: the words would be '
                    "learned with the difference. Give both one caption."
                )
            shapes = [side.width / side.height for side in (example, after[name])]
            if abs(shapes[0] / shapes[1] - 1) > SLACK:
                raise BadData(
                    f"{name} is {example.width} x {example.height} before and {after[name].width} x "
                    f"{after[name].height} after: two crops would be learned. Crop both alike."
                )


SLACK = 0.02
"""How far two sides may differ in shape: resized copies are rounded to whole pixels."""


def _by_name(recipe: Recipe, pair: ImagePair, side: Side) -> dict[str, Example]:
    """Name without its ending -> example."""
    folder: Path = getattr(pair, side)
    if not folder.is_dir():
        raise BadData(f"pairs.{side} is {folder}, and there is no such folder. Correct it in the recipe.")
    examples = read_folder(
        folder,
        min_side=recipe.data.min_side or 0,
        trigger=recipe.data.trigger,
        default_caption=pair.caption or recipe.data.default_caption,
    ).examples
    return {example.path.relative_to(folder).with_suffix("").as_posix(): example for example in examples}
