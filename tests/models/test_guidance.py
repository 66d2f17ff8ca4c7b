"""With an adapter on one branch, a picture is that of two hand-made passes, for every family."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import CASES
from limner.errors import BadRecipe
from limner.graph.unit import run
from limner.models import sampling
from limner.models.family import Objective, SamplingParams
from limner.models.guidance import Branch, Guidance, by_branch
from limner.nn.layers import lora
from messages import raises
from tinybase import CAPTIONS, Base

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
        pair.scale *= 20
    return denoiser


def hand_made(base: Base) -> nn.Module:
    """Both models see everything; of each answer the half, or the turn, that is its branch's is taken."""
    denoiser, bare = strong(base), base.models[base.family.denoiser]
    positive, negative, calls = denoiser.forward, bare.forward, []
    negative_first = base.family.name in ("sdxl", "sd15", "sd3")  # as their pipelines join the two batches

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
