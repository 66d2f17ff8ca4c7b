from typing import Any

import pytest

from limner.errors import BadRecipe
from limner.recipe import Recipe
from limner.recipe.toml import parse
from messages import raises

REFUSED: dict[str, dict[str, Any]] = {
    "inversion": {"train": {"method": "inversion"}, "data": {"trigger": "zorb"}},
    "slider": {"train": {"objective": "slider"}, "slider": {"positive": "old"}},
    "teacher": {"prior": {"kind": "blank", "batch": 1}},
    "other base": {"sample": {"base": "sdxl"}},
    "codes": {"limits": {"matmul_precision": "8bit"}},
    "optimizer": {"train": {"method": "full", "optimizer": "adafactor"}},
    "fp16": {"train": {"method": "full"}, "limits": {"compute_dtype": "fp16"}},
    "no heads": {"train": {"method": "instant"}, "instant": {"encoders": [], "group": 1}},
    "heads' optimizer": {
        "train": {"method": "instant", "optimizer": "adafactor"},
        "instant": {"group": 1},
    },
}


@pytest.mark.parametrize("tables", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_had_with_split_weights_is_one_line(tables: dict[str, Any]):
    Recipe.model_validate(tables)
    limits = {**tables.get("limits", {}), "shard": "on"}
    with raises(BadRecipe):
        Recipe.model_validate({**tables, "limits": limits})


@pytest.mark.parametrize(
    ("text", "wish"),
    [("fsdp = true", "on"), ('fsdp = "full_shard auto_wrap"', "on"), ("use_fsdp = false", "off")],
)
def test_other_trainers_words_for_it_are_read(text: str, wish: str):
    assert parse(text).limits.shard == wish
