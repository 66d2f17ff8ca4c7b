import pytest

from limner.cli.options import PICTURES, RECIPE
from limner.recipe import Recipe
from limner.recipe.explain import keys


def test_every_short_name_stands_for_a_key_that_exists():
    assert {option.key for option in RECIPE} - {"set"} <= set(keys(Recipe))


@pytest.mark.parametrize("table", [RECIPE, PICTURES])
def test_names_are_told_apart(table):
    assert len({option.name for option in table}) == len({option.key for option in table}) == len(table)
    assert all(option.help.endswith(".") for option in table)
