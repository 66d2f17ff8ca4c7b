"""Recipes that need no base."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limner.recipe.schema import Recipe
from limner.recipe.toml import change, settings


def wish(folder: Path, base: str = "./nowhere", **data: Any) -> Recipe:
    """Images at 128 pixels with a trigger, for a base that is not there."""
    given = {"resolution": 128, "trigger": "sks cat", "min_side": 64, **data}
    return Recipe(base=base, data={"images": str(folder), **given})


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with ``key=value`` assignments of a command line, applied all at once as the verbs do."""
    return change(recipe, settings(assignments))
