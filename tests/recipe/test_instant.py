import pytest

from limner.errors import BadRecipe
from limner.models.presets import preset
from limner.recipe.schema import Recipe
from limner.recipe.train import Instant
from messages import raises

PREDICTOR = {"train": {"method": "instant", "steps": 100, "batch": 4}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"instant": {"side": 32}},
        {**PREDICTOR, "lora": {"kind": "dora"}},
        {**PREDICTOR, "lora": {"text_encoders": ["text_encoder"]}},
        {**PREDICTOR, "sample": {"base": "twin"}},
        {**PREDICTOR, "export": {"for": ["comfyui"]}},
        {**PREDICTOR, "instant": {"static_steps": 100}},
        {"train": {**PREDICTOR["train"], "objective": "distill"}},
        {**PREDICTOR, "instant": {"encoders": ["pixels", "pixels"]}},
        {**PREDICTOR, "instant": {"encoders": ["clip"]}},
        {**PREDICTOR, "instant": {"encoders": [], "static_steps": 3}},
        {**PREDICTOR, "instant": {"references": []}},
        {**PREDICTOR, "instant": {"detail": 64}},
        {**PREDICTOR, "instant": {"vae_side": 64}},
        {**PREDICTOR, "instant": {"group": 3}},
        {**PREDICTOR, "prior": {"prompts": ["a cat"]}},
    ],
    ids=str,
)
def test_what_means_nothing_for_a_predictor_is_told(wrong):
    with raises(BadRecipe):
        Recipe.model_validate(wrong)


def test_the_preset_of_a_predictor_is_a_recipe_of_one():
    recipe = preset("style", "flux", 400, "instant")
    assert recipe.train.method == "instant" and recipe.lora.rank == 4
    assert recipe.train.batch % recipe.instant.group == 0 and recipe.instant == Instant()
