from typing import get_args

from limner.nn.memory.plan import Plan
from limner.planning.cards import typical
from limner.planning.choice import PlanRequest
from limner.planning.devices import of_card
from limner.planning.planner import request_of
from limner.planning.trained import ADAPTERS, TRAINED, WHOLE_MODEL
from limner.recipe import Recipe
from limner.recipe.train import Train


def test_every_method_of_a_recipe_is_one_of_the_kinds():
    assert set(get_args(Train.model_fields["method"].annotation)) == set(TRAINED)


def test_a_recipe_asks_for_its_kind():
    device = of_card(typical(24))
    assert request_of(Recipe(), device).trained is ADAPTERS
    whole = request_of(Recipe.model_validate({"train": {"method": "full"}}), device)
    assert whole.trained is WHOLE_MODEL and "host" in whole.optimizer_state


def test_weights_that_are_trained_are_stored_as_they_are():
    assert PlanRequest(compute="bf16").weights == ["bf16", "int8", "fp8"]
    assert PlanRequest(compute="bf16", trained=WHOLE_MODEL).weights == ["bf16"]
    assert WHOLE_MODEL.precision(Plan()) == "full fine-tune: weights fp32"
    assert ADAPTERS.precision(Plan(weights="int8")) == "weights int8"
