"""The model of a plan and the model of a run are one: equal names, shapes, types and trained sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cases import CASES, Case
from limner.assembly.assemble import META, Assembled, ModelSpec, assemble
from limner.assembly.trainable import FullFineTune, LoRA
from limner.errors import BadRecipe
from limner.graph.unit import split
from limner.models.bundled import known
from limner.models.facts import Objective
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.memory.plan import Plan
from limner.recipe.train import Lora

CPU = torch.device("cpu")
CASE = {case.name: case for case in CASES if case.name != "sdxl-v"}


@pytest.fixture(scope="module", params=CASE)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    hush()
    case = CASE[request.param]
    return case, case.save(tmp_path_factory.mktemp("bases") / case.name)


def spec_of(case: tuple[Case, Path], trainable: Any, compute: Any = "fp32") -> ModelSpec:
    source = locate(str(case[1]), folders={})
    return ModelSpec(
        family=family_of(case[0].pipeline), source=source, trainable=trainable, compute=compute, kind="cpu"
    )


def described(assembled: Assembled) -> dict[str, Any]:
    """Of every parameter and buffer: its shape, its type, whether it is trained."""
    return {
        f"{name}.{key}": (tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
        for name, model in assembled.models.items()
        for key, tensor in (*_parameters(model), *model.named_buffers())
    }


def _parameters(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(model.named_parameters())


@pytest.mark.parametrize(
    "plan",
    [Plan(), Plan(weights="int8"), Plan(weights="nf4"), Plan(weights="nf4", code_modulations=True)],
    ids=["fp32", "int8", "nf4", "nf4 with modulations"],
)
def test_on_meta_a_lora_is_what_it_is_with_weights(case: tuple[Case, Path], plan: Plan) -> None:
    spec = spec_of(case, LoRA(Lora(rank=2, targets=case[0].targets)))
    real, meta = assemble(spec, plan, CPU), assemble(spec, plan, META)
    assert described(real) == described(meta)
    names = {name: list(named) for name, named in real.named().items()}
    assert names == {name: list(named) for name, named in meta.named().items()}
    assert names[spec.family.denoiser]
    assert all(each.is_meta for model in meta.models.values() for each in model.parameters())


def test_on_meta_text_encoders_are_what_they_are_with_weights(case: tuple[Case, Path]) -> None:
    family = family_of(case[0].pipeline)
    if not family.text_targets:
        flows = (
            "anima",
            "chroma",
            "flux2-dev",
            "flux2-klein",
            "hidream",
            "ideogram4",
            "krea2",
            "qwen-image",
            "qwen-image-2.1",
            "z-image",
        )
        assert case[0].name in flows
        return
    spec = spec_of(
        case, LoRA(Lora(rank=2, targets=case[0].targets, text_encoders=tuple(family.text_targets)))
    )
    real, meta = assemble(spec, Plan(), CPU), assemble(spec, Plan(), META)
    assert described(real) == described(meta)
    assert real.named().keys() == {family.denoiser, *family.text_targets}


@pytest.mark.parametrize("moments", ["fp32", "host"])
def test_on_meta_a_full_fine_tune_is_what_it_is_with_weights(case: tuple[Case, Path], moments: Any) -> None:
    spec = spec_of(case, FullFineTune(), compute="bf16")
    plan = Plan(compute="bf16", weights="bf16", optimizer_state=moments)
    real, meta = assemble(spec, plan, CPU), assemble(spec, plan, META)
    assert described(real) == described(meta)
    assert (real.offload is not None) == (moments == "host") and meta.offload is None
    masters = real.named()[spec.family.denoiser]
    assert all(each.dtype == torch.float32 for each in masters.values())
    assert masters.keys() == meta.named()[spec.family.denoiser].keys()


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
