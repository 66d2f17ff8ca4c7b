from dataclasses import fields

from limner.models.facts import Objective, RegisteredBase
from limner.recipe.train import Distill, Train


def test_a_part_may_be_stored_otherwise_than_the_rest():
    base = RegisteredBase(name="a", licence="MIT", file_precision="fp32", part_precisions={"vae": "bf16"})
    assert (base.precision("vae"), base.precision("unet")) == ("bf16", "fp32")
    assert RegisteredBase(name="a", licence="MIT").precision("unet") == "bf16"


def test_every_option_is_a_key_of_the_recipe_and_the_default_leaves_it_to_the_family():
    keys = set(Train.model_fields) | {f"distill_{key}" for key in Distill.model_fields}
    assert {field.name for field in fields(Objective)} <= keys
    assert Objective() == Objective(guidance=1.0, min_snr=0.0, noise_offset=0.0)


def test_a_base_is_gated_where_it_lies_or_where_a_part_lies():
    assert RegisteredBase(name="a", hub_id="x/a", licence="MIT").gate == ""
    assert RegisteredBase(name="a", hub_id="x/a", licence="MIT", gated=True).gate == "x/a"
    assert RegisteredBase(name="a", hub_id="x/a", licence="MIT", gated_part="y/b").gate == "y/b"
