"""Discrete steps against diffusers' own scheduler and training tools."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from limner.errors import BadBase
from limner.nn import ddpm
from messages import raises

TIME = torch.tensor([0.0, 0.1234, 0.5, 0.98, 0.999999])
CLEAN, NOISE = (torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(n)) for n in (0, 1))


def both(kind: str = "scaled_linear", *, dark: bool = False, spoken: str = "epsilon"):
    mine = ddpm.Steps(0.00085, 0.012, kind, 1000, dark)
    theirs = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=kind,
        rescale_betas_zero_snr=dark,
        prediction_type=spoken,
    )
    return mine, theirs


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
@pytest.mark.parametrize("dark", [False, True])
def test_steps_are_those_of_diffusers(kind: str, *, dark: bool):
    mine, theirs = both(kind, dark=dark)
    assert torch.allclose(mine.kept, theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert (mine.kept[-1] == 0) == dark and mine.kept[0] == theirs.alphas_cumprod[0]
    noisy = ddpm.noisy(CLEAN, NOISE, mine.left(TIME))
    assert torch.allclose(noisy, theirs.add_noise(CLEAN, NOISE, mine.number(TIME)), atol=1e-4)


def test_times_become_steps():
    assert both()[0].number(TIME).tolist() == [0, 123, 500, 980, 999]


def test_what_is_asked_for_is_the_noise_or_the_velocity():
    mine, theirs = both(spoken="v_prediction")
    left = mine.left(TIME)
    assert ddpm.wanted(ddpm.EPSILON, CLEAN, NOISE, left) is NOISE
    velocity = ddpm.wanted(ddpm.VELOCITY, CLEAN, NOISE, left)
    assert torch.allclose(velocity, theirs.get_velocity(CLEAN, NOISE, mine.number(TIME)), atol=1e-6)


def test_easy_steps_count_less():
    mine, theirs = both()
    snr = compute_snr(theirs, mine.number(TIME))
    weight = ddpm.min_snr(ddpm.EPSILON, mine.left(TIME), 5.0)
    assert torch.allclose(weight, snr.clamp(max=5.0) / snr, rtol=1e-3)
    assert weight[0] < 0.01 and weight[-1] == 1
    assert torch.allclose(
        ddpm.min_snr(ddpm.VELOCITY, mine.left(TIME), 5.0), snr.clamp(max=5.0) / (snr + 1), rtol=1e-3
    )
    dark, _ = both(dark=True)
    assert ddpm.min_snr(ddpm.VELOCITY, dark.left(TIME), 5.0)[-1] == 0, "pure noise is no division by zero"


def test_an_unknown_schedule_is_told():
    with raises(BadBase):
        _ = ddpm.Steps(0.1, 0.2, "cosine").kept
