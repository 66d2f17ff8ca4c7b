from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from limner.errors import BadRecipe
from limner.recipe import Data, Lora, Recipe, Sample
from limner.recipe.fields import Names, PathField, Section, Size, label, parse_size
from limner.recipe.schema import Limits
from limner.recipe.toml import dump, parse
from messages import raises
from recipes import override


def test_a_path_may_be_written_as_a_string_without_a_nul():
    paths = TypeAdapter(PathField)
    assert paths.validate_python("a/b") == Path("a/b")
    with pytest.raises(ValidationError, match="no system has such a path"):
        paths.validate_python("a\0b")


@pytest.mark.parametrize(
    ("text", "valid"), [("auto", True), ("12GB", True), ("a lot", False), ("0GB", False)]
)
def test_a_size_has_a_unit_or_is_chosen(text, valid):
    sizes = TypeAdapter(Size)
    if valid:
        assert sizes.validate_python(text) == text
    else:
        with pytest.raises(ValidationError):
            sizes.validate_python(text)


def test_names_are_a_list_of_words():
    names = TypeAdapter(Names)
    assert names.validate_python(["a", "b"]) == ("a", "b")
    for wrong in ("a", [""], [1]):
        with pytest.raises(ValidationError):
            names.validate_python(wrong, strict=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GB", 12 * 2**30),
        ("12", 12 * 2**30),
        ("12 GiB", 12 * 2**30),
        ("11.5g", int(11.5 * 2**30)),
        ("900 MB", 900 * 2**20),
        ("1T", 2**40),
        ("64kB", 2**16),
    ],
)
def test_sizes_are_read_as_on_the_label_of_a_card(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "12XB", "0", "1e9GB", "99999999TB", "12GB 3", "nan", "٣GBx"]
)
def test_what_is_no_size_is_told_with_an_example(text):
    with raises(BadRecipe):
        parse_size(text)


def test_a_size_is_told_in_the_same_units():
    assert (label(12 * 2**30), label(3 * 2**20), label(2048)) == ("12.0 GB", "3 MB", "2 kB")


def test_limits_take_sizes_and_a_floor_of_precision():
    assert (Recipe().limits.vram, Recipe().limits.ram, Recipe().limits.weights_precision) == (
        "auto",
        "auto",
        "8bit",
    )
    recipe = override(Recipe(), ["limits.vram=12", "limits.weights_precision=4bit"])
    assert (recipe.limits.vram, recipe.limits.weights_precision) == ("12", "4bit")
    assert parse(dump(recipe)) == recipe
    with raises(BadRecipe):
        Limits(vram="a lot")
    with raises(BadRecipe):
        Limits.model_validate({"weights_precision": "2bit"})


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
