"""Samples on another base than the one that is trained on: ``sample.base``."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image, ImageChops

import tiny
from limner.assembly.base import sample_settings
from limner.assembly.resolve import resolve
from limner.errors import BadBase, BadRecipe, Stopped
from limner.generation.settings import Settings
from limner.models.registry import registered_bases
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel, plain
from messages import raises
from small import Told, equal, generated, weights, wish

LORA = {"targets": ["attn.to_q", "attn.to_k"]}


def denoiser_in(base: Path, folder: Path, **config) -> Path:
    """A copy of a base with a denoiser of its own."""
    shutil.copytree(base, folder)
    torch.manual_seed(5)
    whole = FluxTransformer2DModel.load_config(base / "transformer")
    FluxTransformer2DModel.from_config({**whole, **config}).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def twin(tiny_base, tmp_path_factory) -> Path:
    """The tiny base with other numbers in its denoiser."""
    return denoiser_in(tiny_base, tmp_path_factory.mktemp("twin") / "turbo", num_attention_heads=2)


def sampling(base: Path | str, **keys) -> dict:
    return {"every": 1, "prompts": ["a cat"], "steps": 2, "guidance": 1.0, "base": str(base), **keys}


def test_samples_are_the_twins_and_training_is_as_ever(tiny_base, photos, twin, tmp_path):
    """To the bit: the same weights, whatever was sampled; the pictures are those of generate on the twin."""
    runs = {}
    for name, base in (("own", "own"), ("twin", twin)):
        keys = {"lora": LORA, "sample": sampling(base), "train": {"steps": 1}}
        train(wish(tiny_base, photos, **keys), tmp_path / name, Told())
        runs[name] = RunDir(tmp_path / name)
    assert equal(*(weights(run.path, 1) for run in runs.values()))
    shown = [Image.open(run.sample_path(1, 0)).convert("RGB") for run in runs.values()]
    assert ImageChops.difference(*shown).getbbox() is not None
    settings = Settings(steps=2, guidance=1.0, width=32, height=32)
    (path,) = generated(
        runs["twin"].path, tmp_path / "out", "a cat", sample_base=str(twin), settings=settings
    )
    painted = Image.open(path).convert("RGB")
    assert max(high for _, high in ImageChops.difference(painted, shown[1]).getextrema()) <= 1


def test_quantized_and_streamed_weights_come_back_to_the_bit(tiny_base, photos, twin):
    resolved = resolve(wish(tiny_base, photos, lora=LORA, sample=sampling(twin)))
    store = fill_cache(resolved, Told())[0]
    plan = replace(plain(resolved), weights="int8", swapped_blocks=2, swap_buffers=2, checkpointed_blocks=2)
    model = TrainableModel(resolved, store, plan)
    denoiser = model.assembly.denoiser
    before = torch.stack([loss.detach() for loss in model.losses(1)])
    model.sample(1)
    assert not list(denoiser.parameters()), "the first denoiser is emptied before another is read"
    assert torch.equal(before, torch.stack([loss.detach() for loss in model.losses(1)]))
    model.engine.close()


def test_a_base_that_cannot_be_read_again_ends_the_run(tiny_base, photos, twin, monkeypatch):
    resolved = resolve(wish(tiny_base, photos, lora=LORA, sample=sampling(twin)))
    model = TrainableModel(resolved, fill_cache(resolved, Told())[0])
    exchange, calls = model._exchange, []

    def failing(spec, adapters) -> None:
        calls.append(spec)
        if len(calls) == 2:
            raise BadBase("tiny: transformer/ is gone.")
        exchange(spec, adapters)

    monkeypatch.setattr(model, "_exchange", failing)
    with raises(Stopped):
        model.sample(1)


def test_what_does_not_fit_is_told_before_anything_is_computed(tiny_base, photos, tmp_path):
    other = denoiser_in(tiny_base, tmp_path / "wide", num_attention_heads=4)
    stranger = tiny.save_sd15(tmp_path / "sd15")
    for base in (other, stranger, "twin"):
        with raises(BadRecipe):
            train(wish(tiny_base, photos, lora=LORA, sample=sampling(base)), tmp_path / "run", Told())
    with raises(BadRecipe):
        wish(tiny_base, photos, lora={"rank": 16}, sample={"base": "twin"}, train={"method": "full"})


def test_a_distilled_twin_has_its_own_steps_and_guidance():
    recipe = Recipe(base="krea2", sample={"base": "twin", "steps": 28, "guidance": 4.5})
    assert sample_settings(recipe) == ("krea2-turbo", 8, None)
    assert sample_settings(Recipe(base="krea2", sample={"base": "twin", "steps": 4}))[1] == 4
    back = Recipe(base="z-image-turbo", sample={"base": "twin", "steps": 28, "guidance": 4.5})
    assert sample_settings(back) == ("z-image", 28, 4.5)
    assert sample_settings(Recipe(base="krea2", sample={"guidance": 3.0})) == ("krea2", 20, 3.0)
    embedded = Recipe(base="glyph", sample={"base": "twin", "steps": 16, "guidance": 3.0})
    assert sample_settings(embedded) == ("glyph-turbo", 4, None)
    assert all(base.steps for base in registered_bases().values() if base.train_on)
