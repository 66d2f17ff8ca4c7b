"""HiDream-I1's pipeline, beside diffusers' own."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HiDreamImagePipeline

from limner.generation.pipeline import on_host
from limner.models.family import SamplingParams
from limner.models.hidream.family import FAMILY
from limner.models.source import Source, locate
from tiny_hidream import save_hidream


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_hidream(tmp_path_factory.mktemp("bases") / "full")), folders={})


@pytest.fixture(scope="module")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("bases") / "few"
    return locate(str(save_hidream(folder, few_steps=True)), folders={})


def painted(pipe: Any, source: Source, width: int, height: int, seed: int = 4) -> Any:
    params = SamplingParams(width=width, height=height, steps=2)
    options = FAMILY.pipeline_kwargs(source, params)
    draw = torch.Generator().manual_seed(seed)
    return np.asarray(pipe(prompt="a cat", **options, generator=draw).images[0])


def test_at_the_size_of_the_stock_pipeline_it_is_the_stock_pipeline(full: Source):
    stock = HiDreamImagePipeline.from_pretrained(full.root)
    stock.default_sample_size = 8  # latents; it has 128, which takes long
    stock.set_progress_bar_config(disable=True)
    ours = on_host(FAMILY, full)
    for width, height in ((64, 64), (128, 32)):
        assert np.array_equal(painted(ours, full, width, height), painted(stock, full, width, height))
    assert painted(stock, full, 32, 32).shape == (64, 64, 3), "it paints what it wants"
    assert painted(ours, full, 32, 32).shape == (32, 32, 3)
    assert painted(ours, full, 96, 64).shape == (64, 96, 3), "more tokens than it pads to"


def test_where_the_sampler_draws_noise_a_picture_is_its_seeds(few_steps: Source):
    ours = on_host(FAMILY, few_steps)
    first, again, other = (painted(ours, few_steps, 32, 32, seed) for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert "step" not in vars(ours.scheduler)
