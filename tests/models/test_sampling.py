"""Many pictures at once are those of one at a time; equality with stock pipelines is in the contract."""

from pathlib import Path

import numpy as np
import torch

from limner.models import family_of, sampling
from limner.models.family import SamplingParams
from limner.models.loading import hush, load
from limner.models.source import locate


def test_each_picture_has_its_own_seed(tiny_base: Path):
    hush()
    source, family = locate(str(tiny_base), folders={}), family_of("FluxPipeline")
    models = {
        name: load(family, source, name, dtype=torch.float32, device=torch.device("cpu"))
        for name in ("vae", "transformer")
    }
    texts = [{"context": torch.randn(1, 12, 16), "pooled": torch.randn(1, 16)} for _ in range(3)]
    canvas = SamplingParams(width=32, height=32, steps=1, seed=4)
    with torch.no_grad():
        both = sampling.sample_images(family, source, models, texts[:2], texts[2], canvas)
        second = sampling.sample_images(
            family, source, models, texts[1:2], texts[2], SamplingParams(width=32, height=32, steps=1, seed=5)
        )
    assert np.abs(np.asarray(both[1], int) - np.asarray(second[0], int)).max() <= 1
    assert not np.array_equal(np.asarray(both[0]), np.asarray(both[1]))
