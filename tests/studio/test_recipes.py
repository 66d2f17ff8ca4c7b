"""The form is the file."""

from pathlib import Path

import pytest

import messages
from limner.errors import BadRecipe, BadUsage
from limner.recipe import toml
from limner.studio.recipes import RecipeFile, new_recipe
from limner.studio.workspace import Workspace
from limner.target import request_for


@pytest.fixture
def recipe_file(workspace: Workspace, cats: Path) -> RecipeFile:
    return new_recipe(workspace, cats, "cat", {"base": "sdxl", "data.trigger": "zxq"})


def test_a_new_recipe_is_what_init_would_write(recipe_file: RecipeFile, cats: Path) -> None:
    expected = request_for(
        cats, {"name": "cat", "base": "sdxl", "data.trigger": "zxq"}, recipe_file.run
    ).recipe
    assert recipe_file.load() == toml.placed(expected, Path.cwd())


def test_a_change_is_in_the_file_at_once(recipe_file: RecipeFile) -> None:
    recipe_file.change({"lora.rank": 7})
    assert toml.load(recipe_file.path).lora.rank == 7


def test_a_change_that_means_nothing_leaves_the_file(recipe_file: RecipeFile) -> None:
    before = recipe_file.path.read_bytes()
    with messages.raises(BadRecipe):
        recipe_file.change({"lora.rank": 0})
    assert recipe_file.path.read_bytes() == before


def test_another_base_brings_its_preset_and_keeps_what_was_set(recipe_file: RecipeFile, cats: Path) -> None:
    recipe_file.change({"lora.rank": 7})
    recipe = recipe_file.change({"base": "flux-dev"})
    preset = request_for(cats, {"base": "flux-dev", "data.trigger": "zxq"}, recipe_file.run).recipe
    assert (recipe.base, recipe.lora.rank, recipe.data.trigger) == ("flux-dev", 7, "zxq")
    assert recipe.train.learning_rate == preset.train.learning_rate
    assert recipe.name == "cat"


def test_reasons_are_those_of_the_preset_as_long_as_its_value_stands(recipe_file: RecipeFile) -> None:
    assert "lora.rank" in recipe_file.reasons(recipe_file.load())
    recipe = recipe_file.change({"lora.rank": 7})
    assert "lora.rank" not in recipe_file.reasons(recipe)


def test_two_recipes_of_one_name_are_refused(recipe_file: RecipeFile, cats: Path) -> None:
    with messages.raises(BadUsage):
        new_recipe(recipe_file.workspace, cats, "cat", {})


def test_a_name_cannot_lead_out(workspace: Workspace, cats: Path) -> None:
    file = new_recipe(workspace, cats, "../../evil", {})
    assert file.path == workspace.recipes / "evil.toml"
