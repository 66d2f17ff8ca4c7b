from pathlib import Path

import pytest
from pydantic import ValidationError

from limner.errors import BadRecipe
from limner.recipe import Data, Lora, Recipe, Sample
from limner.recipe.section import Section
from messages import raises


def test_the_whole_recipe_is_the_section_without_a_name():
    assert Section.recipe() is Recipe


def test_a_recipe_is_frozen_all_the_way_down_and_hashable():
    recipe = Recipe(sample=Sample(prompts=["a", "b"]))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lora.rank = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert recipe.sample.prompts == ("a", "b")
    assert hash(recipe) == hash(recipe.model_copy())


def test_a_bad_part_built_in_python_is_a_bad_recipe_too():
    with raises(BadRecipe):
        Lora(rank=0)


def test_a_copy_with_other_values_derives_anew_what_is_derived_from_them() -> None:
    data = Data(images=Path("cats"))
    assert data.roots == (Path("cats"),)
    copy = data.model_copy(update={"images": Path("dogs")})
    assert copy.roots == (Path("dogs"),) and data.roots == (Path("cats"),)
    assert data.model_copy() == data and "roots" not in data.model_dump()
