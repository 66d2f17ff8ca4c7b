"""Laws of training a predictor: n styles at once are n single ones, what it writes is what is merged.

And those of any training: resumed = whole, processes = one, computed again = kept.
"""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limner.assembly.resolve import resolve
from limner.data.order import Pace
from limner.graph.unit import run as run_units
from limner.hyper.latents import latents_of
from limner.hyper.predictor import FILE, Predictor
from limner.hyper.train import PAIRS
from limner.nn.layers import per_sample
from limner.nn.memory.plan import Plan
from limner.nn.rng import KeyedRng
from limner.reporter import Reporter
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel
from style_folders import predictor_recipe, style_folders


@pytest.fixture(scope="module")
def styles(tmp_path_factory) -> Path:
    return style_folders(tmp_path_factory.mktemp("data") / "styles", 4, 5)


@pytest.fixture(scope="module")
def model(tiny_base, styles, tmp_path_factory) -> TrainableModel:
    """Of a predictor whose heads have moved from where they began."""
    cache = tmp_path_factory.mktemp("frozen")
    resolved = resolve(predictor_recipe(tiny_base, styles, data={"cache": str(cache)}))
    store, _ = fill_cache(resolved, Reporter())
    model = TrainableModel(resolved, store)
    for number, weight in enumerate(model.parameters):
        draw = torch.Generator().manual_seed(number)
        weight.data += 0.2 * torch.randn(weight.shape, generator=draw)
    return model


def row_losses(model: TrainableModel, samples) -> torch.Tensor:
    values = model.store.drawn(samples, model.device)
    draw = KeyedRng([(0, 0, sample.position) for sample in samples])
    return run_units(model.live_units, model.models, values, draw)["loss"]


def gradients(model: TrainableModel, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, model.parameters, allow_unused=True, materialize_grads=True))


def close(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """To a part in 20,000 of the whole gradient's length."""
    first, second = (torch.cat([part.flatten() for part in parts]) for parts in (one, other))
    return bool((first - second).norm() <= 5e-5 * second.norm())


def test_a_batch_of_styles_is_each_style_alone(model):
    samples = model.order.step(0)
    assert len({sample.references for sample in samples}) == 2
    whole = row_losses(model, samples)
    sets = {len(layer.factors[0]) for layer in per_sample.attached(model.assembly.denoiser).values()}
    assert sets == {2}  # one LoRA for the two pictures of a style
    single = torch.cat([row_losses(model, [sample]) for sample in samples])
    assert torch.allclose(whole, single, rtol=1e-5)
    sums = [torch.zeros_like(weight) for weight in model.parameters]
    for sample in samples:
        parts = gradients(model, row_losses(model, [sample]).sum())
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    assert close(gradients(model, row_losses(model, samples).sum()), sums)


def test_groups_that_a_micro_batch_tears_are_the_same(model):
    samples = model.order.step(0)[:3]
    single = torch.cat([row_losses(model, [sample]) for sample in samples])
    assert torch.allclose(row_losses(model, samples), single, rtol=1e-5)


def test_a_predicted_lora_is_the_merged_one(model):
    """The loss with the LoRA bound to its rows, and that of a base whose weights it was added to."""
    sample = model.order.step(0)[0]
    values = model.store.drawn([sample], model.device)
    with torch.no_grad():
        predict = next(unit for unit in model.live_units if PAIRS in unit.writes)
        pairs = predict.run(model.models, values)[PAIRS]
        per_sample.bind(model.assembly.denoiser, None)
        merged = copy.deepcopy(model.assembly.denoiser)
        for name, (down, up) in pairs.items():
            merged.get_submodule(name).base.weight += up[0] @ down[0]
        models = {**model.models, model.resolved.family.denoiser: merged}
        draw = KeyedRng([(0, 0, 0)])
        loss = run_units(model.live_units, models, {**values, PAIRS: {}}, draw)["loss"]
        base = run_units(model.live_units, model.models, {**values, PAIRS: {}}, draw)["loss"]
    assert torch.allclose(loss, row_losses(model, [sample]), rtol=1e-5)
    assert not torch.allclose(loss, base, rtol=1e-3)


def test_what_is_computed_again_gives_the_same_gradient(model):
    kept = gradients(model, sum(model.losses(0)))
    model.follow(replace(model.plan, checkpointed_blocks=2))
    again = gradients(model, sum(model.losses(0)))
    model.follow(Plan(compute="fp32", weights="fp32", micro_batch=4))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_processes_share_the_micro_batches_of_a_step(model):
    model.paces = [Pace(2)]
    whole = gradients(model, sum(model.losses(1)))
    model.paces = [Pace(2), Pace(2)]
    parts = []
    for process in (0, 1):
        model.process = process
        parts.append(gradients(model, sum(model.losses(1))))
    model.process, model.paces = 0, [Pace(4)]
    assert close([a + b for a, b in zip(*parts, strict=True)], whole)


def test_no_reference_is_the_static_part(model):
    sample = model.order.step(0)[0]._replace(references=())
    row_losses(model, [sample])
    static = model.models["predictor"].learner.static(1)
    for name, layer in per_sample.attached(model.assembly.denoiser).items():
        assert layer.factors is not None and torch.equal(layer.factors[0], static[name][0])


def test_latents_are_a_look_of_a_predictor_that_is_trained(tiny_base, tmp_path):
    """What is bound in training is what a pass makes of the same files; and beside a bias it stays so."""
    styles = style_folders(tmp_path / "styles", 2, 3, side=32)
    instant = {"encoders": ["pixels", "vae"], "detail": 8, "vae_side": 16}
    cache = {"cache": str(tmp_path / "frozen"), "validation_count": 0}
    model = stored(predictor_recipe(tiny_base, styles, data=cache, instant=instant))
    learner = model.models["predictor"].learner
    for number, weight in enumerate(model.parameters):
        weight.data += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    pairs, paths = bound(model)
    images = [Image.open(path).convert("RGB") for path in paths]
    resolved = model.resolved
    latents = latents_of(images, resolved.source, resolved.family, 16, print)
    written = learner.predict(images, {"vae": latents})
    for name, (down, up) in written.items():
        assert torch.allclose(up @ down, pairs[name][1][0] @ pairs[name][0][0], atol=2e-3)
    assert torch.std(latents) > 0 and learner.config.detail == 8
    learner.save(tmp_path / "coarse" / FILE, {})
    written = Predictor.load(tmp_path / "coarse").predict(images, {"vae": latents})
    bias = {"encoders": [], "experts": [str(tmp_path / "coarse")]}
    beside, others = bound(stored(predictor_recipe(tiny_base, styles, data=cache, instant=bias)))
    assert others == paths
    for name, (down, up) in written.items():
        assert torch.allclose(up @ down, beside[name][1][0] @ beside[name][0][0], atol=2e-3)


def stored(recipe) -> TrainableModel:
    """A model whose cache is filled."""
    resolved = resolve(recipe)
    store, _ = fill_cache(resolved, Reporter())
    return TrainableModel(resolved, store)


def bound(model) -> tuple[dict, list[Path]]:
    """What a step binds for its first sample, and the files that it looks at for it."""
    sample = model.order.step(0)[0]
    predict = next(unit for unit in model.live_units if PAIRS in unit.writes)
    with torch.no_grad():
        pairs = predict.run(model.models, model.store.drawn([sample], model.device))[PAIRS]
    return pairs, [model.resolved.own[row].example.path for row in sample.references]
