from dataclasses import fields

from limner.models.objective import Objective
from limner.recipe.schema import Train


def test_every_option_is_a_key_of_the_recipe_and_the_default_leaves_it_to_the_family():
    assert {field.name for field in fields(Objective)} <= set(Train.model_fields)
    assert Objective() == Objective(guidance=1.0, min_snr=0.0, noise_offset=0.0)
