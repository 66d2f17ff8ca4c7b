from pathlib import Path

import pytest

from limner.errors import BadRecipe
from limner.planning.several import parted
from limner.recipe import Recipe
from messages import raises


def recipe(**tables: object) -> Recipe:
    return Recipe.model_validate(tables)


def test_one_of_several_plans_its_share(photos: Path):
    tables = {"data": {"images": str(photos)}, "train": {"batch": 4}}
    share, device = parted(recipe(**tables), "H100", 4)
    assert share.train.batch == 1 and device.processes == 4
    alone, whole = parted(recipe(**tables), "H100", 1)
    assert alone.train.batch == 4 and whole.ram == pytest.approx(4 * device.ram, abs=4)
    with raises(BadRecipe):
        parted(recipe(**tables), "H100", 8)


def test_a_share_of_a_predictors_step_may_be_less_than_a_group():
    tables = {"train": {"method": "instant", "batch": 16}, "instant": {"group": 4}}
    shares = [parted(recipe(**tables), "H100", count)[0] for count in (4, 8)]
    assert [(share.train.batch, share.instant.group) for share in shares] == [(4, 4), (2, 2)]
