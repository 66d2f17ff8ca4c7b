"""diffusers' modular pipeline, filled by Limner from a folder, and a copy of that folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_anima
from cases import CASES
from limner.generation.pipeline import on_host
from limner.models.registry import MODULAR_INDEX
from limner.models.source import locate
from tinybase import Base

CASE = next(case for case in CASES if case.name == "anima")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(CASE, tmp_path_factory.mktemp("bases") / "anima")


def test_generate_has_the_stock_pipeline(base: Base, capfd: pytest.CaptureFixture[str]):
    options = {"prompt": ["a cat", "dog"], "negative_prompt": ["bad", ""], "max_sequence_length": 40}
    options |= {"width": 32, "height": 32, "num_inference_steps": 2, "guidance_scale": 3.0}
    filled = on_host(base.family, base.source)
    capfd.readouterr()
    one, other = (
        pipe(**options, generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)]).images
        for pipe in (filled, base.pipe)
    )
    assert len(one) == 2
    assert all(
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 for a, b in zip(one, other, strict=True)
    )
    assert capfd.readouterr().err.count("%|") <= 4, "the stock pipeline's own bar, and no other"
    again = filled(**{**options, "guidance_scale": 1.0}, generator=torch.Generator().manual_seed(1)).images
    assert not np.array_equal(np.asarray(again[0]), np.asarray(one[0]))


def test_a_copy_has_an_index_by_which_diffusers_finds_the_parts_in_it(base: Base, tmp_path: Path):
    """As a full fine-tune is exported, and moved to where people want it."""
    copy = tmp_path / "copy"
    shutil.copytree(base.source.root, copy, ignore=lambda _, names: {MODULAR_INDEX} & set(names))
    base.source.write_index(copy, base.source.index)
    assert locate(str(copy), folders={}).index == base.source.index
    pipe = tiny_anima.with_parts(tiny_anima.AnimaModularPipeline.from_pretrained(copy))
    entries = json.loads((copy / MODULAR_INDEX).read_text())
    assert entries["vae"][2]["pretrained_model_name_or_path"] == base.source.name
    state = base.pipe.transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pipe.transformer.state_dict().items())
