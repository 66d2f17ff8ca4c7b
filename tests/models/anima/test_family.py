"""What is Anima's alone; the rest is in the contract."""

import pytest

from limner.models.anima.family import FAMILY
from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams


def test_times_are_shifted_by_the_samplers_number_unless_the_preset_says_otherwise():
    assert FAMILY.constants(known("anima"), Objective())["time_shift"] == 3.0
    assert FAMILY.constants(known("anima"), Objective(time_density="sigmoid"))["time_shift"] == 1.0


@pytest.mark.parametrize(("wished", "scale", "passes"), [(None, 4.0, 2), (1.0, 1.0, 1), (0.5, 1.0, 1)])
def test_guidance_is_the_pipelines_own_and_none_at_one(wished: float | None, scale: float, passes: int):
    source, params = known("anima"), SamplingParams(width=32, height=32, steps=2, guidance=wished)
    assert FAMILY.pipeline_kwargs(source, params)["guidance_scale"] == scale
    assert FAMILY.has_negative_pass(source, wished) == (passes == 2)
