import pytest

from limner.errors import BadRecipe
from limner.recipe import contradictions
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from messages import raises


@pytest.mark.parametrize(
    "changes",
    [
        {"train.schedule": "polynomial", "train.schedule_cycles": 2},
        {"train.schedule_power": 2.0},
        {"train.schedule_decay": 5},
        {"train.schedule": "warmup_stable_decay", "train.warmup": 600, "train.schedule_decay": 500},
        {"train.optimizer_args": {"lr": 1e-3}},
        {"train.optimizer_args": {"betas": (0.9, 0.99)}},
        {"train.optimizer": "prodigy", "train.learning_rate": 1.0, "lora.rates": {"*.ff.*": 0.5}},
        {"train.noise_range": (0.7, 0.2)},
        {"train.huber_c": 0.5},
        {"train.loss": "l1", "train.huber_schedule": "constant"},
        {"train.patience": 4},
        {"train.patience": 3, "train.validation_every": 500},
        {"lora.factor": 8},
        {"lora.kind": "dora", "lora.full_matrix": True},
        {"train.init": "cat.safetensors", "lora.kind": "dora"},
        {"train.method": "full", "lora.ranks": {"*.ff.*": 8}},
    ],
)
def test_keys_that_cannot_stand_together_are_refused_in_one_line(changes):
    with raises(BadRecipe):
        change(Recipe(), changes)


def test_what_fits_is_let_be():
    recipe = change(
        Recipe(),
        {
            "train.schedule": "cosine_with_restarts",
            "train.schedule_cycles": 3,
            "train.optimizer": "torch.optim.RAdam",
            "train.optimizer_args": {"betas": (0.9, 0.99), "eps": 1e-6},
            "lora.rates": {"*.ff.*": 0.5},
        },
    )
    contradictions.refuse_adapter(recipe)
    assert recipe.train.optimizer_args["eps"] == 1e-6
