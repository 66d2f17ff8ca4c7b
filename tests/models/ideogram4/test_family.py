"""What is Ideogram 4's alone: two denoisers, its times and its guidance. The rest is in the contract."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Ideogram4Pipeline
from diffusers.models.transformers import transformer_ideogram4
from diffusers.pipelines.ideogram4 import pipeline_ideogram4

from cases import CASES
from limner.errors import BadRecipe
from limner.generation.arrangement import Arrangement
from limner.generation.settings import Settings
from limner.models import sampling
from limner.models.family import Objective, SamplingParams, guidance_of
from limner.models.ideogram4.family import (
    FAMILY,
    IMAGE,
    LAYERS,
    OFFSET,
    TEXT,
    TEXT_LENGTH,
    constants,
    pipeline_kwargs,
)
from limner.models.rectified import density, shifted
from limner.planning.generation import GenerationPlan
from messages import raises
from small import generated
from tinybase import Base

CASE = next(case for case in CASES if case.name == "ideogram4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(CASE, tmp_path_factory.mktemp("bases") / "ideogram4")


def test_what_the_pipeline_names_is_called_so():
    assert pipeline_ideogram4.QWEN3_VL_ACTIVATION_LAYERS == LAYERS
    assert transformer_ideogram4.IMAGE_POSITION_OFFSET == OFFSET
    assert transformer_ideogram4.LLM_TOKEN_INDICATOR == TEXT
    assert transformer_ideogram4.OUTPUT_IMAGE_INDICATOR == IMAGE
    defaults = inspect.signature(Ideogram4Pipeline.__call__).parameters
    assert defaults["max_sequence_length"].default == TEXT_LENGTH


@pytest.mark.parametrize(("width", "height"), [(512, 512), (1024, 1024), (2048, 1024)])
def test_times_are_drawn_as_the_sampler_steps(base: Base, width: int, height: int):
    """Equal shares of what is drawn lie between the sampler's steps."""
    values = constants(base.source, Objective())
    mu = pipeline_ideogram4._resolution_aware_mu(height, width, 0.0)
    sigmas = pipeline_ideogram4._logit_normal_sigmas(8, mu, std=1.5)[1:]  # the first is kept off pure noise
    shares = torch.linspace(1, 0, 9)[1:-1]
    shift = values["time_shift"](width * height // 256)
    times = shifted(density("logit-normal", shares, values["time_width"]), shift)
    assert torch.allclose(times, sigmas, atol=1e-5)


def test_times_by_wish(base: Base):
    assert constants(base.source, Objective(time_shift=3.0))["time_shift"] == 3.0
    plain_ = constants(base.source, Objective(time_density="sigmoid"))
    assert (plain_["time_shift"], plain_["time_width"]) == (1.0, 1.0)


def test_guidance_is_the_pipelines_own_unless_one_is_wished(base: Base):
    source = replace(base.source, facts={})
    params = SamplingParams(width=32, height=32, steps=48)
    defaults = inspect.signature(Ideogram4Pipeline.__call__).parameters
    own = pipeline_kwargs(source, params)
    assert own["guidance_schedule"] == defaults["guidance_schedule"].default
    assert own["num_inference_steps"] == defaults["num_inference_steps"].default
    assert own["guidance_scale"] is None and guidance_of(own) == 7.0
    assert pipeline_kwargs(source, replace(params, steps=20))["guidance_schedule"] == (7.0,) * 19 + (3.0,)
    wished = pipeline_kwargs(source, replace(params, guidance=4.0))
    assert (wished["guidance_scale"], wished["guidance_schedule"]) == (4.0, None)
    assert FAMILY.has_negative_pass(source, None) and FAMILY.has_negative_pass(source, 1.5)
    assert not FAMILY.has_negative_pass(source, 1.0)


def test_without_guidance_the_second_model_is_not_asked_for(base: Base):
    params = SamplingParams(width=32, height=32, steps=2, guidance=1.0, seed=3)
    text = {name: base.row(1)[name] for name in FAMILY.text}
    models = {name: model for name, model in base.models.items() if name != FAMILY.guidance.model}
    (own,) = sampling.sample_images(FAMILY, base.source, models, [text], text, params)
    options = pipeline_kwargs(base.source, params)
    stock = base.pipe(prompt="dog", **options, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.abs(np.asarray(own, int) - np.asarray(stock, int)).max() <= 1


def test_two_denoisers_take_turns_block_by_block_where_not_all_fits(base: Base):
    """The same picture, to the bit."""
    options = pipeline_kwargs(base.source, SamplingParams(width=32, height=32, steps=2))

    def picture() -> Any:
        generator = torch.Generator().manual_seed(1)
        return np.asarray(base.pipe(prompt="dog", **options, generator=generator).images[0], int)

    whole = picture()
    arrangement = Arrangement(base.pipe, FAMILY, torch.device("cpu"), 0)
    try:
        arrangement.follow(GenerationPlan(model_offload=True, swapped_blocks=2))
        assert len(arrangement._turns._streams) == 2  # pyright: ignore[reportOptionalMemberAccess]
        assert np.array_equal(picture(), whole)
    finally:
        arrangement.close()


def test_on_a_gpu_two_blocks_of_the_second_model_are_counted_and_the_rest_in_the_host(base: Base):
    from limner.assembly.resolve import resolve_base
    from limner.planning.phases import outside
    from limner.recipe.schema import Recipe

    spec = resolve_base(Recipe(base=str(base.source.root)), print).spec
    params = SamplingParams(width=32, height=32, steps=2)
    model = spec.skeleton("unconditional_transformer")
    block = sum(weight.nbytes for weight in model.layers[0].parameters())
    whole = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    found = {}
    for kind in ("cuda", "cpu"):
        for guidance in (None, 1.0):
            stages = outside(
                replace(spec, kind=kind), (32, 32), params=replace(params, guidance=guidance)
            ).stages
            (stage,) = (stage for stage in stages if stage.times == "sample step")
            found[kind, guidance] = (stage.weights, stage.swapped_bytes)
    assert found == {
        ("cuda", None): (whole, 2 * block),  # of two blocks, which are those that pass
        ("cuda", 1.0): (0, 0),
        ("cpu", None): (whole, 0),
        ("cpu", 1.0): (0, 0),
    }


def test_a_lora_for_the_negative_pass_is_refused(base: Base, tmp_path: Path):
    from limner.lora import file
    from limner.lora.factors import Factors

    change = {"transformer": {"layers.0.attention.to_q": Factors(torch.zeros(1, 32), torch.zeros(32, 1))}}
    lora = tmp_path / "a.safetensors"
    file.write(lora, change, {})
    with raises(BadRecipe):
        generated(
            lora,
            tmp_path / "out",
            "a cat",
            base=str(base.source.root),
            settings=Settings(negative_lora=lora, steps=2),
        )
