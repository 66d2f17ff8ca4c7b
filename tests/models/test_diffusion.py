"""What a base's scheduler and a recipe decide for families that denoise in discrete steps."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from limner.errors import BadBase, BadRecipe
from limner.models import diffusion
from limner.models.family import Objective, SamplingParams
from limner.models.rectified import LossForm
from limner.models.sdxl import family
from limner.models.source import Source
from limner.nn.rng import KeyedRng
from messages import raises

OWN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LATENT = torch.zeros(64, 4, 8, 8)
DRAWS = KeyedRng([(0, step) for step in range(64)])


def source(folder: Path, **scheduler: object) -> Source:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**OWN, **scheduler}))
    return Source(folder, "base")


def test_the_scheduler_decides(tmp_path: Path):
    chosen = diffusion.constants(source(tmp_path), Objective())
    assert chosen["prediction"] == "epsilon" and not chosen["steps"].dark
    assert chosen["time_density"] == "uniform" and chosen["min_snr"] == 0


def test_a_scheduler_that_says_v_and_pure_noise_is_believed(tmp_path: Path):
    base = source(tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    chosen = diffusion.constants(base, Objective())
    assert chosen["prediction"] == "v_prediction" and chosen["steps"].kept[-1] == 0
    assert not diffusion.constants(base, Objective(zero_terminal_snr=False))["steps"].dark


def test_the_recipe_decides_against_the_scheduler(tmp_path: Path):
    chosen = diffusion.constants(source(tmp_path), Objective(prediction="v", zero_terminal_snr=True))
    assert chosen["prediction"] == "v_prediction" and chosen["steps"].dark


def test_pure_noise_teaches_nothing_about_noise(tmp_path: Path):
    with raises(BadRecipe):
        diffusion.constants(source(tmp_path), Objective(zero_terminal_snr=True))


@pytest.mark.parametrize("odd", [{"prediction_type": "sample"}, {"beta_start": None}, {"beta_schedule": "x"}])
def test_a_scheduler_that_means_nothing_is_told(tmp_path: Path, odd: dict):
    with pytest.raises(BadBase):
        units = family.FAMILY.bound(source(tmp_path, **odd), Objective())
        next(unit for unit in units if unit.name == "denoise").constants["steps"].kept  # noqa: B018


def test_noise_offset_adds_one_number_per_channel():
    plain = diffusion.draw_noise.bind(noise_offset=0.0).run({}, {"latent": LATENT}, DRAWS)["noise"]
    offset = diffusion.draw_noise.bind(noise_offset=0.1).run({}, {"latent": LATENT}, DRAWS)["noise"]
    added = offset - plain
    assert torch.allclose(added, added[..., :1, :1].expand_as(added), atol=1e-6)
    assert added[..., 0, 0].std() == pytest.approx(0.1, rel=0.2)


def test_times_are_uniform_unless_wished_otherwise():
    times = [
        diffusion.draw_time.bind(time_density=name, noise_range=(0.0, 1.0)).run(
            {}, {"latent": LATENT}, DRAWS
        )["time"]
        for name in ("uniform", "logit-normal")
    ]
    assert times[0].std() > times[1].std() and all(t.min() > 0 and t.max() < 1 for t in times)


def test_guidance_is_the_recipe_s_then_the_base_s_then_the_family_s(tmp_path: Path):
    canvas = SamplingParams(width=64, height=32, steps=3)
    bare = Source(tmp_path, "bare")
    assert diffusion.pipeline_kwargs(bare, canvas, 5.0)["guidance_scale"] == 5.0
    told = Source(tmp_path, "told", {"guidance": 3.0})
    assert diffusion.pipeline_kwargs(told, canvas, 5.0)["guidance_scale"] == 3.0
    asked = SamplingParams(width=64, height=32, steps=3, guidance=1.0)
    assert diffusion.pipeline_kwargs(told, asked, 5.0)["guidance_scale"] == 1.0


TIME = torch.tensor([0.0, 0.1234, 0.5, 0.98, 0.999999])
CLEAN, NOISE = (torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(n)) for n in (0, 1))


def both(kind: str = "scaled_linear", *, dark: bool = False, spoken: str = "epsilon"):
    mine = diffusion.Steps(0.00085, 0.012, kind, 1000, dark)
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
    noisy = diffusion.noisy(CLEAN, NOISE, mine.left(TIME))
    assert torch.allclose(noisy, theirs.add_noise(CLEAN, NOISE, mine.number(TIME)), atol=1e-4)


def test_times_become_steps():
    assert both()[0].number(TIME).tolist() == [0, 123, 500, 980, 999]


def test_what_is_asked_for_is_the_noise_or_the_velocity():
    mine, theirs = both(spoken="v_prediction")
    left = mine.left(TIME)
    assert diffusion.wanted(diffusion.EPSILON, CLEAN, NOISE, left) is NOISE
    velocity = diffusion.wanted(diffusion.VELOCITY, CLEAN, NOISE, left)
    assert torch.allclose(velocity, theirs.get_velocity(CLEAN, NOISE, mine.number(TIME)), atol=1e-6)


def test_easy_steps_count_less():
    mine, theirs = both()
    snr = compute_snr(theirs, mine.number(TIME))
    weight = diffusion.snr_weights(diffusion.EPSILON, mine.left(TIME), 5.0)
    assert torch.allclose(weight, snr.clamp(max=5.0) / snr, rtol=1e-3)
    assert weight[0] < 0.01 and weight[-1] == 1
    assert torch.allclose(
        diffusion.snr_weights(diffusion.VELOCITY, mine.left(TIME), 5.0),
        snr.clamp(max=5.0) / (snr + 1),
        rtol=1e-3,
    )
    dark, _ = both(dark=True)
    assert diffusion.snr_weights(diffusion.VELOCITY, dark.left(TIME), 5.0)[-1] == 0, (
        "pure noise is no division by zero"
    )


def test_an_unknown_schedule_is_told():
    with raises(BadBase):
        _ = diffusion.Steps(0.1, 0.2, "cosine").kept


def test_min_snr_weighs_the_loss_of_a_step():
    mine, _ = both()
    pred = torch.ones_like(CLEAN)
    options = {"steps": mine, "prediction": diffusion.EPSILON, "loss_form": LossForm()}
    target = diffusion.aim.function(CLEAN, NOISE, TIME, steps=mine, prediction=diffusion.EPSILON)
    assert torch.equal(target, NOISE)
    plain, weighted = (
        diffusion.measure.function(pred, target, TIME, **options, min_snr=gamma) for gamma in (0, 5.0)
    )
    assert torch.equal(weighted, plain * diffusion.snr_weights(diffusion.EPSILON, mine.left(TIME), 5.0))
