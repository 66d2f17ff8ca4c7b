from types import SimpleNamespace
from typing import Any

import pytest

from limner.assembly.base import ResolvedBase, shape_at
from limner.models.family import SamplingParams
from limner.planning import cards, devices
from limner.planning.generation import (
    RESIDENT,
    GenerationPlan,
    GenerationProfile,
    choose,
    generation_profile,
    line,
    stronger,
)
from limner.planning.profile import OpCounts, Stage
from limner.planning.profile_cache import opened
from limner.recipe.schema import Recipe

GIB = 2**30


def stage(name: str, weights: float, least: float, activations: float, tiled: float | None = None) -> Stage:
    return Stage(
        phase="sample",
        name=name,
        weights=round(weights * GIB),
        layerwise_weights=round(least * GIB),
        activations=round(activations * GIB),
        work=OpCounts(),
        times="",
        tiled_activations=None if tiled is None else round(tiled * GIB),
    )


@pytest.fixture
def profile() -> GenerationProfile:
    """Much like FLUX.1 in bf16."""
    return GenerationProfile(
        encoders=(stage("clip", 0.2, 0.1, 0), stage("t5", 9, 1, 0.1)),
        decoders=(stage("vae", 0.3, 0.3, 2.5, 0.65),),
        blocks=(GIB // 2,) * 40,
        rest=2 * GIB,
        activations=GIB // 2,
    )


@pytest.mark.parametrize(
    ("room", "plan"),
    [
        (40, RESIDENT),
        (30, GenerationPlan(model_offload=True)),
        (20, GenerationPlan(model_offload=True, swapped_blocks=9)),
        (9, GenerationPlan(model_offload=True, swapped_blocks=31, layerwise_encoders=True)),
        (4.3, GenerationPlan(model_offload=True, swapped_blocks=40, layerwise_encoders=True)),
        (
            3.0,
            GenerationPlan(model_offload=True, swapped_blocks=40, layerwise_encoders=True, decode_tiled=True),
        ),
    ],
)
def test_the_fastest_way_that_fits_is_taken_and_the_strongest_where_none_does(profile, room, plan):
    assert choose(profile, round(room * GIB)) == plan
    assert profile.peak(plan) <= room * GIB or plan.swapped_blocks == 40


def test_each_stronger_plan_takes_less_until_there_is_none(profile):
    plan, peaks = RESIDENT, []
    while plan:
        peaks.append(profile.peak(plan))
        last, plan = plan, stronger(profile, plan)
    assert len(peaks) > 4 and all(after <= before for before, after in zip(peaks, peaks[1:], strict=False))
    assert last == choose(profile, 0) and last.swapped_blocks == 40


def test_a_plan_is_one_line(profile):
    params: Any = SimpleNamespace(width=1024, height=768)
    card = cards.known("RTX 3060")
    assert card
    device = devices.of_card(card, 12 * GIB)
    plan = choose(profile, 11 * GIB)
    assert line(profile, plan, device, params) == (
        "Generating 1024 x 768 takes about 10.7 GB of 11.5 GB free on a 12 GB RTX 3060: model offload: one "
        "model on the card at a time; block swap: 27 of 40 blocks in CPU RAM."
    )
    assert line(profile, RESIDENT, device, params).endswith(
        "all models on the card. That is more than is free; trying it all the same."
    )


def test_what_is_predicted_of_a_base_is_its_weights_and_its_largest_moment():
    """The embedded base, by what its files hold."""
    recipe = Recipe(base="glyph")
    source = opened(recipe, print)
    family_shape = ResolvedBase(
        recipe=recipe,
        source=source,
        shape=None,
        kind="cuda",
        compute="fp32",  # type: ignore[arg-type]
    )
    base = ResolvedBase(
        recipe=recipe,
        source=source,
        shape=shape_at(source, family_shape.family),
        kind="cuda",
        compute="fp32",
    )
    side = base.shape.resolution
    small, large = (
        generation_profile(base.spec, SamplingParams(width=n, height=n, steps=2), 1000)
        for n in (side, 4 * side)
    )
    denoiser = base.spec.skeleton(base.family.denoiser)
    weights = sum(weight.nbytes for weight in (*denoiser.parameters(), *denoiser.buffers()))
    assert sum(small.blocks) + small.rest == weights + 1000 and len(small.blocks) > 1
    assert [entry.times for entry in (*small.encoders, *small.decoders)] == ["caption"] * 2 + ["sample"]
    assert small.activations > 0
    assert large.decoding(in_tiles=False) >= small.decoding(in_tiles=False)
