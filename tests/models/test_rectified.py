import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from limner.errors import BadRecipe
from limner.generation.pipeline import pipeline
from limner.graph.unit import Unit, run
from limner.models import latents, rectified
from limner.models.bundled import known
from limner.models.family import Objective, SamplingParams
from limner.models.rectified import LossForm, resolution_shift, shifted
from limner.models.registry import family_of
from limner.models.source import Source, locate
from limner.nn.rng import KeyedRng
from messages import raises
from tiny import save_flux, save_flux2_klein, save_qwen_image, save_sd3
from tiny_anima import save_anima
from tiny_qwen21 import save_qwen21

DRAWS = KeyedRng([(0, step) for step in range(32)])


def times(folder: Path, latent: torch.Tensor, objective: Objective = Objective(), **scheduler: object):  # noqa: B008
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    chosen = rectified.times(Source(folder, "base"), objective)
    return rectified.draw_time.bind(**chosen).run({}, {"latent": latent}, DRAWS)["time"]


def test_a_sampler_may_call_its_shift_another_name(tmp_path: Path):
    """diffusers' UniPC and DPM-Solver say ``flow_shift``."""
    latent = torch.zeros(8, 1, 8, 8)
    assert torch.equal(times(tmp_path, latent, flow_shift=3.0), times(tmp_path, latent, shift=3.0))


@pytest.mark.parametrize(("side", "tokens"), [(64, 1024), (128, 4096)])
def test_larger_images_see_more_noise(tmp_path: Path, side: int, tokens: int):
    latent = torch.zeros(32, 1, side, side)
    raw = times(tmp_path, latent)
    seen = times(tmp_path, latent, use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192)
    assert torch.allclose(seen, shifted(raw, resolution_shift(tokens, 0.5, 0.9, 256, 8192)))
    assert seen.mean() > raw.mean()


def loss(form: LossForm, pred: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Of a velocity that is 1 everywhere."""
    latent, noise = torch.zeros_like(pred), torch.ones_like(pred)
    values = {"latent": latent, "noise": noise, "pred": pred, "time": time}
    values |= rectified.aim.run({}, values)
    return rectified.measure.bind(loss_form=form).run({}, values)["loss"]


def test_the_loss_is_the_error_of_the_velocity():
    pred = torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert loss(LossForm(), pred, torch.tensor([0.1, 0.9])).tolist() == [0.0, 4.0]
    assert loss(LossForm("l1"), pred, torch.tensor([0.1, 0.9])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
@pytest.mark.parametrize("schedule", ["exponential", "constant"])
def test_pseudo_huber_is_that_of_sd_scripts(kind: str, schedule: str):
    """library/train_util.py, conditional_loss and get_huber_threshold_if_needed."""
    pred = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    time, c = torch.tensor([0.0, 0.4, 1.0]), 0.05
    alpha = -math.log(c)
    scales = [math.exp(-alpha * t) if schedule == "exponential" else c for t in time.tolist()]
    expected = [
        (2 * (s if kind == "huber" else 1.0) * (((p - 1) ** 2 + s**2).sqrt() - s)).mean().item()
        for p, s in zip(pred, scales, strict=True)
    ]
    assert loss(LossForm(kind, c, schedule), pred, time).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mse", "l1", "huber", "smooth_l1"])
def test_a_weighed_loss_is_the_weighed_mean_of_that_of_each_place(kind: str):
    draw = torch.Generator().manual_seed(1)
    pred, target = (torch.randn(2, 3, 2, 4, generator=draw) for _ in range(2))
    weight, time = torch.rand(2, 1, 2, 4, generator=draw), torch.tensor([0.2, 0.9])
    form = LossForm(kind, 0.05)
    wanted = torch.zeros(2)
    for row in range(2):
        for column in range(4):
            place = (..., slice(row, row + 1), slice(column, column + 1))
            wanted += (
                rectified.loss_of(pred[place], target[place], time, form) * weight[:, 0, row, column] / 8
            )
    values = {"pred": pred, "target": target, "time": time, "loss_weight": weight}
    measure = rectified.measure.bind(loss_form=form).reading(("loss_weight",))
    assert torch.allclose(measure.run({}, values)["loss"], wanted, rtol=1e-5)


def test_near_zero_huber_is_the_square_and_far_out_smooth_l1_is_twice_the_amount():
    near, far = torch.full((1, 1, 2, 2), 1.01), torch.full((1, 1, 2, 2), 1001.0)
    huber, smooth = (LossForm(kind, 1.0, "constant") for kind in ("huber", "smooth_l1"))
    half = torch.tensor([0.5])
    assert loss(huber, near, half).item() == pytest.approx(1e-4, rel=1e-2)
    assert loss(smooth, far, half).item() == pytest.approx(2000, rel=1e-2)


def test_times_are_laid_into_the_range_of_noise_and_all_of_it_changes_no_bit(tmp_path: Path):
    latent = torch.zeros(32, 1, 64, 64)
    plain = times(tmp_path, latent)
    assert torch.equal(times(tmp_path, latent, Objective(noise_range=(0.0, 1.0))), plain)
    part = times(tmp_path, latent, Objective(noise_range=(0.25, 0.75)))
    assert torch.allclose(part, 0.25 + 0.5 * plain)
    assert float(part.min()) >= 0.25 and float(part.max()) <= 0.75


def test_guidance_is_for_bases_that_have_an_input_for_it(tmp_path: Path):
    (tmp_path / "transformer").mkdir()
    config = tmp_path / "transformer" / "config.json"
    config.write_text('{"guidance_embeds": true}')
    assert rectified.guidance(Source(tmp_path, "dev"), Objective(guidance=3.5)) == 3.5
    config.write_text('{"guidance_embeds": false}')
    assert rectified.guidance(Source(tmp_path, "schnell"), Objective()) is None
    with raises(BadRecipe):
        rectified.guidance(Source(tmp_path, "schnell"), Objective(guidance=3.5))


CLEAN = torch.arange(24.0).view(2, 3, 4)
NOISE = torch.ones(2, 3, 4)


def test_the_path_is_straight_and_ends_where_it_should():
    for time, there in ((0.0, CLEAN), (1.0, NOISE)):
        assert torch.equal(rectified.noisy(CLEAN, NOISE, torch.full((2,), time)), there)
    times = torch.tensor([0.25, 0.5])
    step = rectified.noisy(CLEAN, NOISE, times + 0.125) - rectified.noisy(CLEAN, NOISE, times)
    assert torch.allclose(step, 0.125 * rectified.velocity(CLEAN, NOISE))


def test_the_velocity_leads_back_to_the_image():
    times = torch.tensor([0.3, 0.9])
    back = rectified.noisy(CLEAN, NOISE, times) - times.view(2, 1, 1) * rectified.velocity(CLEAN, NOISE)
    assert torch.allclose(back, CLEAN, atol=1e-5)


def test_noise_is_added_as_the_stock_scheduler_adds_it():
    scheduler = FlowMatchEulerDiscreteScheduler()
    steps = scheduler.timesteps[[100, 700]]
    mine = rectified.noisy(CLEAN, NOISE, steps / 1000)
    assert torch.allclose(mine, scheduler.scale_noise(CLEAN, steps, NOISE), atol=1e-6)


@pytest.mark.parametrize(("name", "scheme"), [("logit-normal", "logit_normal"), ("uniform", "none")])
def test_densities_are_those_of_diffusers_training(name: str, scheme: str):
    count = 20000
    theirs = compute_density_for_timestep_sampling(
        scheme, count, logit_mean=0.0, logit_std=1.0, generator=torch.Generator().manual_seed(0)
    )
    mine = rectified.density(name, (torch.arange(count) + 0.5) / count)
    assert torch.allclose(mine, theirs.sort().values, atol=0.015)
    assert mine.min() > 0 and mine.max() < 1


def test_content_is_near_noise_and_style_near_the_image_by_the_cube_of_ai_toolkit():
    draws = (torch.arange(2000) + 0.5) / 2000
    slots = torch.linspace(1, 0, 1000)  # its schedule begins with noise, and an index is drawn
    for name, index in (("content", draws**3), ("style", 1 - draws**3)):
        theirs = slots[(index * 1000).long().clamp(max=999)]
        assert torch.allclose(rectified.density(name, draws), theirs.sort().values, atol=2e-3)
        constants = rectified.times(known("flux-dev"), Objective(time_density=name))
        assert (constants["time_density"], constants["time_shift"]) == (name, 1.0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (64, 64), (8, 4)])
def test_the_shift_is_that_of_the_schedulers_dynamic_shifting(height: int, width: int):
    tokens = height * width
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = [1.0, 0.75, 0.5, 0.1]
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(tokens))
    mine = rectified.shifted(torch.tensor(sigmas), rectified.resolution_shift(tokens))
    assert torch.allclose(mine, scheduler.sigmas[:-1], atol=1e-6)


def test_a_fixed_shift_is_that_of_the_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.1])
    assert torch.allclose(rectified.shifted(torch.tensor([1.0, 0.75, 0.5, 0.1]), 3.0), scheduler.sigmas[:-1])


def test_the_shift_by_resolution_at_its_two_anchors():
    assert rectified.resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert rectified.resolution_shift(4096) == pytest.approx(math.exp(1.15))
    assert rectified.resolution_shift(64, 0.0, 1.0, 64, 128) == 1.0
    assert rectified.shifted(torch.tensor(0.4), 1.0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "save", [save_anima, save_flux, save_flux2_klein, save_sd3, save_qwen_image, save_qwen21]
)
def test_a_student_samples_as_the_stock_pipeline_does(tmp_path: Path, save: Callable[[Path], Path]):
    source = locate(str(save(tmp_path / "base")), folders={})
    family = family_of(str(source.index["_class_name"]))
    pipe = pipeline(family, source)
    params = SamplingParams(width=64, height=64, steps=3, guidance=1.0)
    stock: list[torch.Tensor] = []
    step = pipe.scheduler.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        stock.append(step(*args, **kwargs)[0])
        return (stock[-1],)

    pipe.scheduler.step = watched
    draw = torch.Generator().manual_seed(7)
    pipe(prompt="a cat", **family.pipeline_kwargs(source, params), generator=draw)
    networks = {part: getattr(pipe, part) for part in family.parts}
    values = {
        "image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        "frame": torch.zeros(1, 6, dtype=torch.int64),
        "caption": ("a cat",),
        "seed": torch.tensor([7]),
    }
    with torch.no_grad():
        sampled = run(family.bound(source, Objective(distill_steps=3)), networks, values)["sampled"]
    grid = latents.patchify(sampled) if family.name in ("flux", "qwen-image") else sampled
    packed = sampled if family.name in ("anima", "sd3") else latents.tokens(grid)
    theirs = stock[-1][:, :, 0] if family.name == "anima" else stock[-1]
    assert torch.allclose(packed, theirs, atol=1e-5) and len(stock) == 3


def test_the_gradient_goes_through_every_step_of_a_student():
    weight = torch.nn.Linear(1, 1, bias=False).double()
    denoise = Unit(
        name="denoise",
        function=lambda net, latent, noise, time: net(latent[..., None])[..., 0],
        uses=("net",),
        reads=("latent", "noise", "time"),
        writes=("pred",),
        draws=False,
        version=1,
    )
    start = torch.randn(2, 1, 2, 2)
    weight.weight.data = weight.weight.data.float()
    times = rectified.Spacing().times(3, 2.0)
    options = {"denoise": denoise, "names": ("start",), "steps": 3, "shift": 2.0, "patch": 1}
    sampled = rectified.sample(weight, start, spacing=rectified.Spacing(), **options)
    sampled.sum().backward()
    # each Euler step multiplies by 1 + (then - now) w
    w = weight.weight.detach().clone().requires_grad_()
    factor = math.prod(1 + (then - now) * w for now, then in pairwise(times))
    (factor * start.sum()).sum().backward()
    assert times[0] == 1.0 and times[-1] == 0.0 and times == sorted(times, reverse=True)
    assert torch.allclose(sampled.sum(), (factor * start.sum()).sum(), rtol=1e-5)
    assert weight.weight.grad is not None and torch.allclose(weight.weight.grad, w.grad, rtol=1e-4)  # pyright: ignore
