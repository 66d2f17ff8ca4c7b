from dataclasses import replace

import pytest
import torch

from limner.assembly.spec import ModelSpec
from limner.assembly.trainable import FullFineTune, LoRA
from limner.errors import BadRecipe
from limner.graph.split import split
from limner.models import family_of
from limner.models.bundled import known
from limner.models.objective import Objective
from limner.recipe.schema import Lora


def spec(**choices) -> ModelSpec:
    start = {"family": family_of("FluxPipeline"), "source": known("flux-dev"), "trainable": LoRA()}
    return ModelSpec(**start | choices)


def test_the_graph_is_cut_where_what_is_trained_begins():
    plain = spec()
    assert plain.first_layers == {"transformer": 0} and plain.cut.loaded == ("transformer",)
    assert plain.cut == split(plain.units, {"transformer": 0}) and plain.cut is plain.cut
    both = spec(trainable=LoRA(Lora(text_encoders=("text_encoder",))))
    assert set(both.cut.loaded) == {"transformer", "text_encoder"}


@pytest.mark.parametrize(
    ("compute", "trainable", "casts", "autocasts"),
    [
        ("bf16", LoRA(), True, False),
        ("bf16", FullFineTune(), False, True),
        ("fp32", LoRA(), False, False),
        ("fp32", FullFineTune(), False, False),
    ],
)
def test_half_precision_is_had_in_one_way(compute, trainable, *, casts, autocasts):
    one = spec(compute=compute, trainable=trainable)
    assert (one.casts_inputs, one.autocasts) == (casts, autocasts)


def test_a_skeleton_has_shapes_in_the_runs_precision():
    model = spec().skeleton("text_encoder")
    assert all(each.is_meta and each.dtype == torch.bfloat16 for each in model.parameters())


def test_what_the_family_does_not_know_is_told_before_anything_is_computed():
    with pytest.raises(BadRecipe, match=r"min_snr is 5\.0, which means nothing for flux"):
        spec(objective=Objective(min_snr=5.0)).require_possible()
    with pytest.raises(BadRecipe, match="has no text encoder 'clip'"):
        spec(trainable=LoRA(Lora(text_encoders=("clip",)))).require_possible()
    replace(spec(), kind="cpu").require_possible()
