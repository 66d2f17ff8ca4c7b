"""What a base's scheduler and a recipe decide for families that denoise in discrete steps."""

import json
from pathlib import Path

import pytest
import torch

from limner.errors import BadBase, BadRecipe
from limner.models import diffusion
from limner.models.family import Objective, SamplingParams
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
        diffusion.draw_time.bind(time_density=name).run({}, {"latent": LATENT}, DRAWS)["time"]
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
