"""Many pictures at once are those of one at a time; equality with stock pipelines is in the contract.

With an adapter on one branch, a picture is that of two hand-made passes, for every family.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import CASES
from limner.errors import BadRecipe
from limner.graph.unit import run
from limner.models import sampling
from limner.models.family import Guidance, Objective, SamplingParams
from limner.models.flux.family import FAMILY as FLUX
from limner.models.loading import hush, load
from limner.models.registry import family_of
from limner.models.sampling import (
    Branch,
    by_branch,
    overrides_from_metadata,
    overrides_of,
    prediction_metadata,
    sampler,
)
from limner.models.sd15.family import FAMILY as SD15
from limner.models.sdxl.family import FAMILY as SDXL
from limner.models.source import Source, locate
from limner.nn.layers import lora
from messages import raises
from tiny import save_sd15, save_sdxl
from tinybase import CAPTIONS, Base


def test_each_picture_has_its_own_seed(tiny_base: Path):
    hush()
    source, family = locate(str(tiny_base), folders={}), family_of("FluxPipeline")
    models = {
        name: load(family, source, name, dtype=torch.float32, device=torch.device("cpu"))
        for name in ("vae", "transformer")
    }
    texts = [{"context": torch.randn(1, 12, 16), "pooled": torch.randn(1, 16)} for _ in range(3)]
    canvas = SamplingParams(width=32, height=32, steps=1, seed=4)
    with torch.no_grad():
        both = sampling.sample_images(family, source, models, texts[:2], texts[2], canvas)
        second = sampling.sample_images(
            family, source, models, texts[1:2], texts[2], SamplingParams(width=32, height=32, steps=1, seed=5)
        )
    assert np.abs(np.asarray(both[1], int) - np.asarray(second[0], int)).max() <= 1
    assert not np.array_equal(np.asarray(both[0]), np.asarray(both[1]))


V = Objective(prediction="v", zero_terminal_snr=True)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_sdxl(tmp_path_factory.mktemp("bases") / "sdxl")), folders={})


def test_a_recipe_that_contradicts_the_base_is_heard_when_painting(sdxl: Source):
    made = sampler(sdxl, overrides_of(V))
    assert made.config.prediction_type == "v_prediction" and made.config.rescale_betas_zero_snr
    assert made.config.timestep_spacing == "trailing"
    assert made.config.beta_end == sdxl.config("scheduler")["beta_end"]
    plain = sampler(sdxl, overrides_of(Objective()))
    assert plain.config.prediction_type == "epsilon" and plain.config.timestep_spacing == "leading"


def test_a_sampler_that_cannot_begin_at_pure_noise_is_refused(tmp_path: Path):
    source = locate(str(save_sd15(tmp_path / "sd15")), folders={})
    assert sampler(source, overrides_of(Objective(prediction="v"))).config.prediction_type == "v_prediction"
    with raises(BadRecipe):
        sampler(source, overrides_of(V))
    assert prediction_metadata(SD15, source, Objective()) == ("epsilon", False)


def test_files_say_what_they_were_trained_for_and_are_believed(sdxl: Source):
    assert prediction_metadata(SDXL, sdxl, V) == ("v", True) and prediction_metadata(
        FLUX, sdxl, Objective()
    ) == ("", False)
    ours = {"software": "Limner 1", "modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}
    assert overrides_from_metadata(SDXL, sdxl, ours) == overrides_of(V)
    assert (
        overrides_from_metadata(
            SDXL, sdxl, {**ours, "modelspec.prediction_type": "epsilon", "ss_zero_terminal_snr": ""}
        )
        == {}
    )
    assert overrides_from_metadata(SDXL, sdxl, {**ours, "software": "another"}) == {}
    assert overrides_from_metadata(FLUX, sdxl, ours) == {}


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PARAMS = SamplingParams(width=64, height=32, steps=2, seed=11, guidance=3.0)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(request.param, tmp_path_factory.mktemp("bases") / request.param.name)


def texts(base: Base) -> list[dict[str, Tensor]]:
    """Two prompts and the empty one."""
    units = [unit for unit in base.family.bound(base.source, Objective()) if not unit.draws]
    rows = []
    with torch.no_grad():
        for caption in (*CAPTIONS, ""):
            values: dict[str, Any] = {"caption": (caption,)}
            for unit in units:
                if set(unit.reads) <= set(values):
                    values |= run([unit], base.models, values)
            rows.append({name: values[name] for name in base.family.text})
    return rows


def pictures(
    base: Base, denoiser: nn.Module, select: Callable[[nn.Module, Branch], None] | None
) -> np.ndarray:
    *prompts, empty = texts(base)
    models = base.models | {base.family.denoiser: denoiser}
    with torch.no_grad():
        images = sampling.sample_images(base.family, base.source, models, prompts, empty, PARAMS, select)
    return np.stack([np.asarray(image, int) for image in images])


def enable(model: nn.Module, branch: Branch) -> None:
    lora.enable(model, enabled=branch == "positive")


def strong(base: Base) -> nn.Module:
    """The denoiser with a LoRA that can be seen."""
    denoiser = base.moved()
    for pair in lora.attached(denoiser).values():
        pair.full_scale *= 20
    return denoiser


def hand_made(base: Base) -> nn.Module:
    """Both models see everything; of each answer the half, or the turn, that is its branch's is taken."""
    denoiser, bare = strong(base), base.models[base.family.denoiser]
    positive, negative, calls = denoiser.forward, bare.forward, []
    negative_first = base.family.name in (
        "sdxl",
        "sd15",
        "sd3",
        "hidream",
    )  # as their pipelines join the two batches

    def both(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        answers = [forward(*args, **kwargs)[0] for forward in (positive, negative)]
        if base.family.name == "z-image":
            return ([*answers[0][:2], *answers[1][2:]],)
        if negative_first:
            return (torch.cat([answers[1][:2], answers[0][2:]]),)
        return (answers[0] if len(calls) % 2 else answers[1],)

    denoiser.forward = both
    return denoiser


def test_an_adapter_on_the_positive_branch(base: Base):
    denoiser = strong(base)
    if base.family.guidance.distilled(base.source):
        with raises(BadRecipe):
            base.family.require_negative_pass(base.source, 3.0, "--lora-on positive")
        return
    base.family.require_negative_pass(base.source, 3.0, "--lora-on positive")
    split = pictures(base, denoiser, enable)
    if base.family.guidance.model:  # an adapter is on the positive branch always
        assert np.array_equal(split, pictures(base, denoiser, None))
        return
    assert np.abs(split - pictures(base, hand_made(base), None)).max() <= 1
    on_both, bare = pictures(base, denoiser, None), pictures(base, base.models[base.family.denoiser], None)
    assert np.abs(split - on_both).max() > 3 and np.abs(split - bare).max() > 3
    assert np.abs(pictures(base, denoiser, lambda model, branch: None) - on_both).max() <= 1


def test_a_scale_without_a_negative_pass_is_told(base: Base):
    off_at = base.family.guidance.off_at
    assert not base.family.has_negative_pass(base.source, off_at)
    with raises(BadRecipe):
        base.family.require_negative_pass(base.source, off_at, "--negative-lora")


def test_models_are_as_before_whatever_happens():
    denoiser, encoder = nn.Linear(2, 2), nn.Linear(2, 2)
    last: dict[nn.Module, Branch] = {}
    guidance = Guidance(passes="negative-first")
    denoiser.forward = before = lambda sample: (sample + 1,)
    with pytest.raises(KeyError), by_branch(guidance, denoiser, [encoder], last.__setitem__):
        encoder(torch.ones(2))
        assert last == {encoder: "positive"}
        encoder(torch.ones(2))
        assert last == {encoder: "negative"}
        assert torch.equal(denoiser(torch.zeros(4, 1))[0], torch.ones(4, 1))
        raise KeyError
    assert last == {encoder: "positive", denoiser: "positive"}
    assert vars(denoiser)["forward"] is before and "forward" not in vars(encoder)


def test_both_batches_may_be_on_another_axis_of_an_argument():
    """HiDream-I1's states have their layers first: here four of them, as many as there are samples."""
    denoiser = nn.Linear(2, 2)
    guidance = Guidance(passes="negative-first", batch_axes={"states": 1})
    denoiser.forward = lambda sample, *, states, other: (sample + states.sum(0) + other,)  # pyright: ignore
    states, other = torch.arange(16.0).view(4, 4, 1), torch.arange(4.0).view(4, 1)
    with by_branch(guidance, denoiser, [], lambda model, branch: None):
        (out,) = denoiser(torch.zeros(4, 1), states=states, other=other)
    assert torch.equal(out, states.sum(0) + other)
