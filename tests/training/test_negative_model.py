from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import tiny_ideogram4
from limner.assembly.resolve import resolve
from limner.nn.memory.block_swap import BlockSwapper
from limner.training import negative_model
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel, plain
from small import Told, wish


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run's model on the tiny base, and the store of what is frozen."""
    base = tiny_ideogram4.save_ideogram4(tmp_path_factory.mktemp("bases") / "ideogram4")
    photos = tmp_path_factory.mktemp("photos")
    for number in range(2):
        Image.fromarray(np.full((40, 40, 3), 80 * number, np.uint8)).save(photos / f"{number}.png")
    sample = {"every": 1, "prompts": ["a cat"], "steps": 2, "width": 32, "height": 32}
    resolved = resolve(wish(Path(base), photos, lora={"rank": 2}, sample=sample))
    return resolved, fill_cache(resolved, Told())[0]


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_beside_a_swapped_denoiser_the_second_model_comes_block_by_block(trained, weights, monkeypatch):
    resolved, store = trained
    plan = replace(plain(resolved), weights=weights)
    model = TrainableModel(resolved, store, plan)
    whole = np.asarray(model.sample(1)[0], int)
    model.follow(replace(plan, swapped_blocks=2))
    opened: list[nn.Module] = []
    load, counts = negative_model.load, []
    streaming = BlockSwapper.__init__

    def noting(*args: Any, **options: Any) -> Any:
        opened.append(load(*args, **options))
        return opened[-1]

    def counting(self: BlockSwapper, buffers: Any, *args: Any) -> None:
        counts.append(len(buffers))
        streaming(self, buffers, *args)

    monkeypatch.setattr(negative_model, "load", noting)
    monkeypatch.setattr(BlockSwapper, "__init__", counting)
    assert np.array_equal(np.asarray(model.sample(1)[0], int), whole)
    assert len(opened) == 1 and counts == [2]
    assert not list(opened[0].parameters()), "no second denoiser stays in memory"
    model.engine.close()
