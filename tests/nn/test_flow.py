import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from limner.nn import flow

CLEAN = torch.arange(24.0).view(2, 3, 4)
NOISE = torch.ones(2, 3, 4)


def test_the_path_is_straight_and_ends_where_it_should():
    for time, there in ((0.0, CLEAN), (1.0, NOISE)):
        assert torch.equal(flow.noisy(CLEAN, NOISE, torch.full((2,), time)), there)
    times = torch.tensor([0.25, 0.5])
    step = flow.noisy(CLEAN, NOISE, times + 0.125) - flow.noisy(CLEAN, NOISE, times)
    assert torch.allclose(step, 0.125 * flow.velocity(CLEAN, NOISE))


def test_the_velocity_leads_back_to_the_image():
    times = torch.tensor([0.3, 0.9])
    back = flow.noisy(CLEAN, NOISE, times) - times.view(2, 1, 1) * flow.velocity(CLEAN, NOISE)
    assert torch.allclose(back, CLEAN, atol=1e-5)


def test_noise_is_added_as_the_stock_scheduler_adds_it():
    scheduler = FlowMatchEulerDiscreteScheduler()
    steps = scheduler.timesteps[[100, 700]]
    mine = flow.noisy(CLEAN, NOISE, steps / 1000)
    assert torch.allclose(mine, scheduler.scale_noise(CLEAN, steps, NOISE), atol=1e-6)


@pytest.mark.parametrize(("name", "scheme"), [("logit-normal", "logit_normal"), ("uniform", "none")])
def test_densities_are_those_of_diffusers_training(name: str, scheme: str):
    count = 20000
    theirs = compute_density_for_timestep_sampling(
        scheme, count, logit_mean=0.0, logit_std=1.0, generator=torch.Generator().manual_seed(0)
    )
    mine = flow.density(name, (torch.arange(count) + 0.5) / count)
    assert torch.allclose(mine, theirs.sort().values, atol=0.015)
    assert mine.min() > 0 and mine.max() < 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (64, 64), (8, 4)])
def test_the_shift_is_that_of_the_schedulers_dynamic_shifting(height: int, width: int):
    tokens = height * width
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = [1.0, 0.75, 0.5, 0.1]
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(tokens))
    mine = flow.shifted(torch.tensor(sigmas), flow.resolution_shift(tokens))
    assert torch.allclose(mine, scheduler.sigmas[:-1], atol=1e-6)


def test_a_fixed_shift_is_that_of_the_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.1])
    assert torch.allclose(flow.shifted(torch.tensor([1.0, 0.75, 0.5, 0.1]), 3.0), scheduler.sigmas[:-1])


def test_the_shift_by_resolution_at_its_two_anchors():
    assert flow.resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert flow.resolution_shift(4096) == pytest.approx(math.exp(1.15))
    assert flow.resolution_shift(64, 0.0, 1.0, 64, 128) == 1.0
    assert flow.shifted(torch.tensor(0.4), 1.0) == pytest.approx(0.4)
