"""FLUX.1 against diffusers' own pipeline and training example, on a pipeline of the true architecture."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor

from limner.errors import BadRecipe
from limner.graph.unit import run, split
from limner.models import rectified
from limner.models.family import Objective, SamplingParams
from limner.models.flux import family
from limner.models.flux.family import FAMILY
from limner.models.loading import hush, load
from limner.models.rectified import resolution_shift, shifted
from limner.models.source import Source, locate
from limner.nn.layers import lora
from limner.nn.rng import KeyedRng
from messages import raises
from tiny import save_flux

CAPTIONS = ("a cat, sitting", "dog")
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 64), dtype=np.uint8))
PLACES = [(0, 5, 0), (0, 5, 1)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[False, True], ids=["schnell", "dev"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = save_flux(tmp_path_factory.mktemp("bases") / "tiny", guided=request.param)
    return locate(str(folder), folders={})


@pytest.fixture(scope="module")
def models(source: Source) -> dict[str, Any]:
    return {name: load(FAMILY, source, name, dtype=torch.float32, device=CPU) for name in FAMILY.parts}


@pytest.fixture(scope="module")
def pipe(source: Source) -> Any:
    hush()
    pipe = FluxPipeline.from_pretrained(source.root, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guided(source: Source) -> bool:
    return source.config("transformer")["guidance_embeds"]


def values(source: Source, models: dict[str, Any], objective: Objective = Objective(), **given: Any) -> dict:  # noqa: B008
    inputs = {"image": IMAGE, "caption": CAPTIONS, **given}
    with torch.no_grad():
        return run(FAMILY.bound(source, objective), models, inputs, KeyedRng(PLACES))


def test_a_caption_is_encoded_as_the_pipeline_does(source, models, pipe):
    seen = values(source, models)
    with torch.no_grad():
        context, pooled, ids = pipe.encode_prompt(list(CAPTIONS), None, max_sequence_length=12)
    assert torch.equal(seen["context"], context) and torch.equal(seen["pooled"], pooled)
    assert not ids.any()
    assert seen["clip_tokens"].shape == (2, 77) and seen["t5_tokens"].shape == (2, 12)


def test_long_captions_are_truncated_as_the_pipeline_does(source, models, pipe):
    caption = (" ".join(["many words"] * 40),)
    seen = values(source, models, caption=caption, image=IMAGE[:1])
    with torch.no_grad():
        context, pooled, _ = pipe.encode_prompt(list(caption), None, max_sequence_length=12)
    assert torch.equal(seen["context"], context) and torch.equal(seen["pooled"], pooled)


def test_an_image_becomes_the_posterior_of_the_vae(source, models, pipe):
    seen = values(source, models)
    pixels = IMAGE.float() / 255 * 2 - 1
    with torch.no_grad():
        posterior = models["vae"].encode(pixels).latent_dist
    scale, shift = models["vae"].config.scaling_factor, models["vae"].config.shift_factor
    assert torch.allclose(seen["latent_mean"], (posterior.mean - shift) * scale, atol=1e-6)
    spread = (seen["latent_logvar"] / 2).exp()
    assert torch.allclose(spread, posterior.std * scale, atol=1e-6)
    noise = KeyedRng(PLACES).normal("latent", posterior.mean)
    drawn = posterior.mean + posterior.std * noise
    assert torch.allclose(seen["latent"], (drawn - shift) * scale, atol=1e-5)


def test_one_latent_is_not_drawn_for_all_steps(source, models):
    unit = {each.name: each for each in FAMILY.units}["draw_latent"]
    seen = values(source, models)
    draws = [KeyedRng([(0, step, 0), (0, step, 1)]) for step in range(200)]
    latents = torch.stack([unit.run({}, seen, draw)["latent"] for draw in draws])
    spread = (seen["latent_logvar"] / 2).exp()
    assert torch.allclose(latents.mean(0), seen["latent_mean"], atol=float(5 * spread.max() / 200**0.5))
    assert torch.allclose(latents.std(0), spread, rtol=0.35)


def example_loss(pipe: Any, seen: dict[str, Tensor], guidance: float) -> Tensor:
    """What diffusers' FLUX LoRA example computes, from the pipeline's public parts."""
    latent, noise, time = seen["latent"], seen["noise"], seen["time"]
    batch, channels, height, width = latent.shape
    sigmas = time.view(-1, 1, 1, 1)
    mixed = (1.0 - sigmas) * latent + sigmas * noise
    scale = torch.tensor([guidance]).expand(batch) if pipe.transformer.config.guidance_embeds else None
    pred = pipe.transformer(
        hidden_states=FluxPipeline._pack_latents(mixed, batch, channels, height, width),
        timestep=time,
        guidance=scale,
        pooled_projections=seen["pooled"],
        encoder_hidden_states=seen["context"],
        txt_ids=torch.zeros(seen["context"].shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, CPU, torch.float32),
        return_dict=False,
    )[0]
    pred = FluxPipeline._unpack_latents(pred, height * 8, width * 8, 8)
    return ((pred.float() - (noise - latent).float()) ** 2).reshape(batch, -1).mean(1).mean()


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_loss_and_gradient_are_those_of_diffusers_example(source, pipe, guidance):
    objective = Objective(guidance=guidance if guided(source) else 1.0)
    trained = load(FAMILY, source, "transformer", dtype=torch.float32, device=CPU)
    names = lora.matching(trained, FAMILY.endings("transformer", "auto"))
    lora.attach(trained, names, rank=4, alpha=2, dropout=0.0, seed=1)
    for number, factor in enumerate(lora.trained(trained)):
        torch.nn.init.normal_(factor, std=0.1, generator=torch.Generator().manual_seed(number))
    mine = {part: load(FAMILY, source, part, dtype=torch.float32, device=CPU) for part in FAMILY.parts}
    mine["transformer"] = trained
    seen = values(source, mine, objective)
    boundary = {name: seen[name] for name in (*split(FAMILY.units, {"transformer": 0}).boundary,)}
    live = split(FAMILY.bound(source, objective), {"transformer": 0}).live
    loss = run(live, mine, boundary, KeyedRng(PLACES))["loss"]
    assert loss.shape == (2,)
    gradients = torch.autograd.grad(loss.mean(), lora.trained(trained))

    stock = SimpleNamespace(transformer=trained)
    wanted = example_loss(stock, seen, guidance)
    theirs = torch.autograd.grad(wanted, lora.trained(trained))
    assert torch.allclose(loss.mean(), wanted, rtol=1e-6)
    for one, other in zip(gradients, theirs, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


def test_guidance_reaches_a_model_that_has_it_and_is_refused_for_others(source, models):
    one = values(source, models, Objective())["pred"]
    if guided(source):
        assert not torch.equal(one, values(source, models, Objective(guidance=4.0))["pred"])
    else:
        with raises(BadRecipe):
            values(source, models, Objective(guidance=4.0))


def times(source: Source, objective: Objective, count: int = 64) -> Tensor:
    unit = {each.name: each for each in FAMILY.bound(source, objective)}["draw_time"]
    draw = KeyedRng([(0, step) for step in range(count)])
    return unit.run({}, {"latent": torch.zeros(count, 4, 32, 64)}, draw)["time"]


def with_scheduler(source: Source, folder: Path, **config: Any) -> Source:
    moved = Path(shutil.copytree(source.root, folder / "base"))
    (moved / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return locate(str(moved), folders={})


def test_times_are_shifted_by_the_number_of_tokens_when_the_sampler_does_so(source, tmp_path):
    raw = times(source, Objective())
    dynamic = with_scheduler(source, tmp_path, use_dynamic_shifting=True)
    assert torch.allclose(times(dynamic, Objective()), shifted(raw, resolution_shift(16 * 32)))
    own = with_scheduler(source, tmp_path / "own", use_dynamic_shifting=True, base_shift=0.0, max_shift=2.0)
    assert torch.allclose(times(own, Objective()), shifted(raw, resolution_shift(16 * 32, 0.0, 2.0)))
    assert torch.equal(times(dynamic, Objective(time_shift=1.0)), raw)


def test_times_are_shifted_as_the_sampler_shifts_or_as_the_recipe_says(source, tmp_path):
    raw = times(source, Objective())
    fixed = with_scheduler(source, tmp_path, shift=3.0)
    assert torch.allclose(times(fixed, Objective()), shifted(raw, 3.0))
    assert torch.allclose(times(fixed, Objective(time_shift=2.0)), shifted(raw, 2.0))
    assert torch.equal(times(fixed, Objective(time_density="sigmoid")), raw), "the kohya tools shift nothing"
    uniform = times(source, Objective(time_density="uniform"))
    assert torch.equal(uniform, KeyedRng([(0, step) for step in range(64)]).uniform("time", uniform))


def test_what_a_base_decides(source):
    chosen = family.constants(source, Objective())
    assert chosen["text_length"] == 12 and chosen["time_density"] == "logit-normal"
    assert chosen["guidance"] == (1.0 if guided(source) else None)
    bare = Source(source.root, "bare")
    assert family.constants(bare, Objective())["text_length"] == (512 if guided(source) else 256)
    assert family.model_spec(source) == ("flux-1-dev" if guided(source) else "flux-1-schnell", "flux1")


def test_a_distilled_base_without_guidance_input_is_painted_without_guidance(source):
    canvas = SamplingParams(width=32, height=32, steps=4)
    told = family.pipeline_kwargs(Source(source.root, "bare"), canvas)
    if guided(source):
        assert (told["guidance_scale"], told["true_cfg_scale"], told["negative_prompt"]) == (3.5, 1.0, None)
    else:
        assert (told["true_cfg_scale"], told["negative_prompt"]) == (1.0, "")
    assert family.pipeline_kwargs(source, canvas)["guidance_scale"] == 2.0
    asked = family.pipeline_kwargs(source, SamplingParams(width=32, height=32, steps=4, guidance=5.0))
    assert asked["guidance_scale" if guided(source) else "true_cfg_scale"] == 5.0


@pytest.mark.parametrize("group", sorted(FAMILY.targets))
def test_target_groups_name_layers_of_the_model(models, group: str):
    names = lora.matching(models["transformer"], FAMILY.endings("transformer", group))
    assert names and not any(
        name.startswith(("x_embedder", "context_embedder", "proj_out", "norm")) for name in names
    )
    assert all(name.startswith("single") for name in names) or group != "single-blocks"


@pytest.mark.parametrize("encoder", sorted(FAMILY.text_targets))
def test_text_targets_name_layers_of_every_layer(models, encoder: str):
    names = lora.matching(
        models[encoder], FAMILY.text_targets[encoder], layers=FAMILY.layers[encoder], since=2
    )
    assert names and all(name.startswith(f"{FAMILY.layers[encoder]}.2.") for name in names)


def test_the_shift_of_the_stock_sampler_is_ours():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert set(rectified.SHIFT_RANGE) <= set(scheduler.config)
    assert {key: scheduler.config[key] for key in rectified.SHIFT_RANGE} == rectified.SHIFT_RANGE
