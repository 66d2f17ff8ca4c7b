from dataclasses import replace

import pytest

from blueprints import flux
from limner.assembly.base import ImageSizes, Shape
from limner.nn.memory.plan import Plan
from limner.planning.advice import Alternative
from limner.planning.cards import typical
from limner.planning.choice import PlanRequest, assess
from limner.planning.devices import of_card
from limner.planning.mixture import Mixture, at_pace_of, step_sizes, view_count
from limner.planning.time import StepTime
from limner.recipe.schema import Data

SHAPE = Shape(16, 1024)
SEVERAL = ImageSizes(Data(resolution=(1024, 512, 768), resolution_shares=(0.5, 0.25, 0.25)), SHAPE)


def test_the_largest_bucket_is_the_largest_that_is_used():
    sizes = ImageSizes(Data(), SHAPE)
    assert step_sizes(sizes, []) == {(1024, 1024): 1.0}
    ((width, height),) = step_sizes(sizes, [(2000, 1000)])
    assert width > height
    assert [*step_sizes(ImageSizes(Data(resolution=512), SHAPE), [])] == [(512, 512)]


def test_of_several_resolutions_each_has_its_share_of_the_draws_and_the_largest_comes_last():
    assert step_sizes(SEVERAL, []) == {(512, 512): 0.25, (768, 768): 0.25, (1024, 1024): 0.5}
    shares = step_sizes(SEVERAL, [(4000, 4000), (800, 800)])
    assert shares == {(512, 512): 0.25, (768, 768): 0.5, (1024, 1024): 0.25}
    assert step_sizes(SEVERAL, [(500, 500)]) == {(512, 512): 1.0}
    assert (view_count(SEVERAL, []), view_count(SEVERAL, [(4000, 4000), (500, 500)])) == (3, 2)


def test_time_and_cache_are_means_over_the_draws():
    small, large = replace(flux(512), entry=100), replace(flux(1024), entry=400)
    device, request = of_card(typical(24)), PlanRequest(compute="bf16")
    choice = assess(large, device, request, Plan())
    assert Mixture().timed(choice, large, device, request) is choice
    mixture = Mixture(((small, 0.75),))
    seconds = [assess(profile, device, request, choice.plan).step_time.seconds for profile in (small, large)]
    timed = mixture.timed(choice, large, device, request)
    assert timed.step_time.seconds == pytest.approx(0.75 * seconds[0] + 0.25 * seconds[1])
    assert seconds[0] < timed.step_time.seconds < seconds[1] and timed.needs == choice.needs
    assert mixture.entry(large) == 0.75 * 100 + 0.25 * 400


def test_alternatives_are_as_much_slower_than_the_mean_as_at_the_largest_size():
    large, device, request = flux(1024), of_card(typical(24)), PlanRequest(compute="bf16")
    choice = assess(large, device, request, Plan())
    slower = replace(choice, step_time=StepTime(1.5 * choice.step_time.seconds))
    option = Alternative("x", slower, fits=True, change=0.5)
    mean = replace(choice, step_time=StepTime(0.25 * choice.step_time.seconds))
    (scaled,) = at_pace_of(mean, choice, [option])
    assert scaled.choice.step_time.seconds == pytest.approx(1.5 * mean.step_time.seconds)
    assert at_pace_of(choice, choice, [option]) == (option,)
