"""The form is the recipe file: what a page shows is read from it, and a change is written to it at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadUsage
from limner.files import write_text
from limner.models.presets import choices, preset_name
from limner.recipe import Recipe, aliases, toml
from limner.studio.images.image_set import ImageSet
from limner.studio.workspace import Workspace, safe_name
from limner.target import request_for

PRESET_KEYS = ("base", "concept_type", "train.method", "train.objective")
"""What the preset depends on: when one of them changes, what the person did not set follows."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe in the workspace."""

    path: Path
    workspace: Workspace

    @property
    def name(self) -> str:
        """Of the file and of its run."""
        return self.path.stem

    @property
    def run(self) -> Path:
        """Its run folder."""
        return self.workspace.runs / self.name

    def load(self) -> Recipe:
        """Read it.

        Raises:
            BadRecipe: It is none.
        """
        return toml.load(self.path)

    def reasons(self, recipe: Recipe) -> dict[str, str]:
        """Where the preset's values are from, by dotted path, of those that the recipe still has."""
        images = len(self.workspace.images_in(recipe.data.images))
        start = (recipe.concept_type, preset_name(recipe.base), max(images, 1))
        rows = choices(*start, recipe.train.method, recipe.train.objective)
        return {path: row.source for path, row in rows.items() if toml.get(recipe, path) == row.value}

    def change(self, changes: Mapping[str, Any]) -> Recipe:
        """Set keys, and write the file.

        A change of base, concept, method or objective brings their preset along: keys that the person had
        set by hand stay, the others follow.

        Args:
            changes: Values by dotted path; None unsets.

        Raises:
            BadRecipe: A value is impossible, or contradicts another; the file stays as it was.
        """
        recipe = self.load()
        if any(path in changes for path in PRESET_KEYS):
            recipe = self._with_preset(recipe, changes)
        else:
            recipe = toml.change(recipe, changes)
        self._write(recipe)
        return recipe

    def _with_preset(self, recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
        before = _template(recipe.data.images, {key: toml.get(recipe, key) for key in PRESET_KEYS}, self.run)
        paths = [path for path in aliases.keys(Recipe) if path not in PRESET_KEYS]
        own_values = {
            path: toml.get(recipe, path) for path in paths if toml.get(recipe, path) != toml.get(before, path)
        }
        own_values |= {"data.trigger": recipe.data.trigger, "name": recipe.name}
        keys = {key: toml.get(recipe, key) for key in PRESET_KEYS}
        return _template(recipe.data.images, {**own_values, **keys, **changes}, self.run)

    def _write(self, recipe: Recipe) -> None:
        write_text(self.path, toml.commented(recipe, self.reasons(recipe)))


def new_recipe(workspace: Workspace, images: Path, name: str, values: Mapping[str, Any]) -> RecipeFile:
    """Write the preset for a folder of images.

    Args:
        workspace: Where.
        images: The folder.
        name: Of the file and of the run.
        values: Changes by dotted path.

    Raises:
        BadUsage: There is a recipe of that name, or the folder is none of images.
        BadRecipe: A value is impossible.
    """
    stem = safe_name(name)
    file = RecipeFile(workspace.inside(workspace.recipes / f"{stem}.toml"), workspace)
    if file.path.exists():
        raise BadUsage(f"There is a recipe {stem} already. Open it, or choose another name.")
    recipe = _template(images, {"name": stem, **values}, file.run)
    file._write(recipe)
    return file


def purpose_of(images: ImageSet) -> dict[str, Any]:
    """What the page Images was told of a folder, by dotted path of a recipe; empty where nothing was."""
    settings = images.kept_settings()
    if settings is None:
        return {}
    values = {
        "base": settings.base,
        "concept_type": settings.concept_type,
        "data.trigger": settings.trigger or None,
        "data.resolution": settings.resolution,
    }
    return {path: value for path, value in values.items() if value is not None}


def _template(images: Path, values: Mapping[str, Any], run: Path) -> Recipe:
    return request_for(images, values, run).recipe
