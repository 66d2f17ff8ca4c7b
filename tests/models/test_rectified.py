import json
from pathlib import Path

import pytest
import torch

from limner.errors import BadRecipe
from limner.models import rectified
from limner.models.family import Objective
from limner.models.source import Source
from limner.nn.flow import resolution_shift, shifted
from limner.nn.rng import KeyedRng
from messages import raises

DRAWS = KeyedRng([(0, step) for step in range(32)])


def times(folder: Path, latent: torch.Tensor, objective: Objective = Objective(), **scheduler: object):  # noqa: B008
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    chosen = rectified.times(Source(folder, "base"), objective)
    return rectified.draw_time.bind(**chosen).run({}, {"latent": latent}, DRAWS)["time"]


@pytest.mark.parametrize(("side", "tokens"), [(64, 1024), (128, 4096)])
def test_larger_images_see_more_noise(tmp_path: Path, side: int, tokens: int):
    latent = torch.zeros(32, 1, side, side)
    raw = times(tmp_path, latent)
    seen = times(tmp_path, latent, use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192)
    assert torch.allclose(seen, shifted(raw, resolution_shift(tokens, 0.5, 0.9, 256, 8192)))
    assert seen.mean() > raw.mean()


def test_the_loss_is_the_error_of_the_velocity():
    latent, noise = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    pred = torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    seen = rectified.measure.run({}, {"latent": latent, "noise": noise, "pred": pred})
    assert seen["loss"].tolist() == [0.0, 4.0]


def test_guidance_is_for_bases_that_have_an_input_for_it(tmp_path: Path):
    (tmp_path / "transformer").mkdir()
    config = tmp_path / "transformer" / "config.json"
    config.write_text('{"guidance_embeds": true}')
    assert rectified.guidance(Source(tmp_path, "dev"), Objective(guidance=3.5)) == 3.5
    config.write_text('{"guidance_embeds": false}')
    assert rectified.guidance(Source(tmp_path, "schnell"), Objective()) is None
    with raises(BadRecipe):
        rectified.guidance(Source(tmp_path, "schnell"), Objective(guidance=3.5))
