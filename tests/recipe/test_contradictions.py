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
        {"prior.class_word": "cat"},
        {"prior.kind": "teacher", "prior.prompts": ("a cat",), "data.trigger": "sks cat"},
        {"prior.kind": "blank", "train.method": "full"},
        {"prior.kind": "blank", "data.caption_dropout": 0.1},
        {"prior.kind": "teacher"},
        {"prior.kind": "teacher", "data.trigger": "zorb", "prior.class_word": "a zorb"},
        {"data.resolution": (512, 1024, 512)},
        {"data.resolution": (512, 1024), "data.resolution_shares": (0.5, 0.25, 0.25)},
        {"data.resolution_shares": (0.5, 0.5)},
        {"data.resolution": (512, 1024), "data.resolution_shares": (0.5, 0.25)},
        {"data.resolution": (512, 1024), "train.objective": "distill"},
        {"data.sets": [{"trigger": "a"}]},
        {"data.sets": [{"images": "a"}], "data.images": "b"},
        {"data.sets": [{"images": "a"}], "data.control": ("b",)},
        {"data.sets": [{"images": "a", "trigger": "zorb"}, {"images": "b", "trigger": "Zorb"}]},
        {"data.sets": [{"images": "a", "share": 0.5}, {"images": "b"}]},
        {"data.sets": [{"images": "a", "share": 0.5}, {"images": "b", "share": 0.25}]},
        {"data.sets": [{"images": "a", "share": 1.0, "repeats": 2}]},
        {"data.sets": [{"images": "a", "trigger": "x"}, {"images": "b"}], "prior.kind": "teacher"},
        {"data.sets": [{"images": "a", "trigger": "x", "class_word": "an x"}], "prior.kind": "teacher"},
        {"data.sets": [{"images": "a"}], "train.objective": "distill"},
        {"data.sets": [{"images": "a", "triger": "x"}]},
        {"data.sets": [{"images": "a", "learning_rate": 1}]},
        {"lora.factor": 8},
        {"lora.kind": "dora", "lora.full_matrix": True},
        {"train.init": "cat.safetensors", "lora.kind": "dora"},
        {"train.method": "full", "lora.ranks": {"*.ff.*": 8}},
        {"train.mask_floor": 0.1},
        {"data.masks": "alpha", "train.mask_floor": 1.0},
        {"data.masks": "sidecar", "train.objective": "distill"},
        {"data.tag_variants": 4},
        {"data.tag_shuffle": True, "train.objective": "distill"},
        {"prior.count": 100, "prior.images": "cats"},
        {"prior.count": 100, "prior.prompts": ("a cat",), "prior.images_per_prompt": 2},
        {"prior.kind": "experts", "prior.images": "styles"},
        {"prior.kind": "experts", "train.method": "instant", "instant.experts": ["a"], "train.batch": 4},
        {
            **{"prior.kind": "experts", "train.method": "instant", "instant.experts": ["a"]},
            **{"train.batch": 4, "prior.images": "styles", "prior.batch": 6},
        },
        {"train.method": "instant", "train.batch": 4, "instant.target": "base"},
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
