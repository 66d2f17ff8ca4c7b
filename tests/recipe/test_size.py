import pytest

from limner.errors import BadRecipe
from limner.recipe import Recipe
from limner.recipe.schema import Limits
from limner.recipe.size import label, parse_size
from limner.recipe.toml import dump, parse
from messages import raises
from recipes import override


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
