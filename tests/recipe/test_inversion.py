from typing import Any

import pytest

import messages
from limner.errors import BadRecipe
from limner.recipe.schema import Recipe
from limner.recipe.toml import change

ALONE = {"train.method": "inversion", "data.trigger": "<mimo>"}
PIVOTAL = {**ALONE, "inversion.with_lora": True}


def test_token_vectors_are_trained_alone_or_beside_a_lora():
    alone, pivotal = change(Recipe(), ALONE), change(Recipe(), {**PIVOTAL, "lora.rank": 4})
    assert alone.trains_words and not alone.inversion.with_lora
    assert pivotal.inversion.with_lora and pivotal.lora.rank == 4
    assert not Recipe().trains_words


@pytest.mark.parametrize(
    "changes",
    [
        {"inversion.tokens": 2},
        {**ALONE, "inversion.tokens": 0},
        {**PIVOTAL, "inversion.until": 1.5},
        {**ALONE, "inversion.until": 0.5},
        {**ALONE, "data.trigger": "Sks Cat"},
        {**ALONE, "data.trigger": "", "data.sets": [{"images": "a", "trigger": "b"}, {"images": "c"}]},
        {
            **ALONE,
            "data.trigger": "",
            "data.sets": [{"images": "a", "trigger": "b"}, {"images": "c", "trigger": "d"}],
        },
        {**ALONE, "lora.rank": 4},
        {**ALONE, "data.caption_dropout": 0.1},
        {**ALONE, "prior.kind": "teacher"},
        {**ALONE, "train.init": "x.safetensors"},
        {**ALONE, "sample.base": "twin"},
        {**ALONE, "sample.lora_on": "positive"},
        {**ALONE, "export.for": ["musubi"]},
        {**PIVOTAL, "train.objective": "distill"},
        {**ALONE, "train.optimizer": "prodigy", "train.learning_rate": 1.0, "inversion.rate": 1e-3},
        {**ALONE, "train.optimizer": "schedulefree"},
    ],
)
def test_what_contradicts_a_textual_inversion_is_one_line(changes: dict[str, Any]):
    with messages.raises(BadRecipe):
        change(Recipe(), changes)


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("placeholder_token", "data.trigger", "<mimo>"),
        ("token_string", "data.trigger", "<mimo>"),
        ("initializer_token", "inversion.init", "cat"),
        ("init_word", "inversion.init", "cat"),
        ("num_vectors", "inversion.tokens", 3),
        ("num_vectors_per_token", "inversion.tokens", 3),
        ("embedding_learning_rate", "inversion.rate", 4e-3),
        ("train_text_encoder_ti", "inversion.with_lora", True),
        ("train_text_encoder_ti_frac", "inversion.until", 0.5),
    ],
)
def test_keys_of_other_trainers_are_read(theirs: str, ours: str, value: Any):
    table, key = ours.split(".")
    recipe = change(
        Recipe(),
        {**PIVOTAL, theirs: value} if ours not in PIVOTAL else {"train.method": "inversion", theirs: value},
    )
    assert getattr(getattr(recipe, table), key) == value
    assert change(Recipe(), {"training_method": "EMBEDDING"}).trains_words
