from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from limner.assembly.resolve import resolve
from limner.graph.cache import Cache
from limner.models import sampling
from limner.models.bundled import described, known, weight_bytes
from limner.models.facts import is_tokenizer
from limner.models.family import Objective, SamplingParams
from limner.models.loading import hush, load
from limner.models.registry import facts_of, family_of, hub_bases
from limner.nn.arch import bytes_of, heaviest
from limner.nn.memory import engine
from limner.nn.memory.plan import Plan
from limner.planning import phases
from limner.planning.phases import Outside, outside
from limner.planning.profile import Stage
from limner.planning.trace import Machine
from limner.planning.tracker import Tracker
from limner.training import encoders
from limner.training.cache import all_rows
from limner.training.encode import fill, survey
from small import Told, wish
from specs import traced

GIB = 2**30
CPU = Machine(kernels="cpu", granule=1)

SIZES = {
    "flux-dev": {"text_encoder": 0.229, "text_encoder_2": 8.870, "vae": 0.312},
    "flux2-klein-4b": {"text_encoder": 7.493, "vae": 0.313},
    "qwen-image": {"text_encoder": 15.446, "vae": 0.473},
    "sd15": {"text_encoder": 0.229, "vae": 0.312},
    "sdxl": {"text_encoder": 0.229, "text_encoder_2": 1.294, "vae": 0.312},
    "z-image": {"text_encoder": 7.492, "vae": 0.312},
}
"""GiB: parameters as published, two bytes each, autoencoders four."""


def traced_outside(name: str, side: int, **more: Any) -> Outside:
    source = known(name)
    family = family_of(source.index["_class_name"])
    size = more.pop("size", (side, side))
    spec, _ = traced(family, source, size=size, compute=more.pop("compute", "bf16"))
    facts = facts_of(source.index["_class_name"])
    spec = replace(spec, controls=facts.controls[0] if facts else 0)  # an edit model sees at least so many
    return outside(spec, size, **more)


def of(found: Outside, phase: str, part: str) -> Stage:
    (stage,) = (each for each in found.stages if each.phase == phase and each.name.split()[0] == part)
    return stage


@pytest.mark.parametrize("name", SIZES)
def test_true_bases_take_what_their_parts_weigh(name: str):
    found = traced_outside(name, 512)
    caching = {each.name.split()[0]: each for each in found.stages if each.phase == "cache"}
    assert caching.keys() == SIZES[name].keys()
    for part, size in SIZES[name].items():
        assert caching[part].weights / GIB == pytest.approx(size, rel=5e-3)
        assert caching[part].times == ("image" if part == "vae" else "caption")
        layered = part != "vae"
        assert (caching[part].layerwise_weights < caching[part].weights / 2) == layered
    assert found.download == weight_bytes(name)
    assert of(found, "sample", "vae").weights == caching["vae"].weights
    painting = next(each for each in found.stages if each.times == "sample step")
    assert painting.weights == 0 and painting.activations > 0, "its weights are those of training"


def test_files_of_another_precision_than_the_run_s_are_copied_on_the_host():
    half = traced_outside("sd15", 256)
    whole = traced_outside("sd15", 256, compute="fp32")
    assert of(whole, "cache", "text_encoder").copy_bytes == 0, "its files are in fp32"
    assert of(half, "cache", "text_encoder").copy_bytes == pytest.approx(
        of(half, "cache", "text_encoder").weights, rel=1e-3
    )
    assert of(half, "sample", "vae").copy_bytes == 0, "it computes in fp32, as it is stored"
    klein = traced_outside("flux2-klein-4b", 256)
    assert of(klein, "cache", "text_encoder").copy_bytes == 0, "its files are in bf16"
    assert of(klein, "cache", "vae").copy_bytes == pytest.approx(of(klein, "cache", "vae").weights, rel=1e-3)


def test_work_is_that_of_the_published_models():
    """FLUX.1: 2 operations for each of 11.9 billion weights and token, and attention's 4 H L^2 D on top."""
    found = traced_outside("flux-dev", 1024)
    step = next(each for each in found.stages if each.times == "sample step").work
    assert step.gemm.per_image == pytest.approx(59.5e12, rel=0.01)
    assert step.attention.per_image == pytest.approx(57 * 4 * 24 * 4608**2 * 128, rel=1e-6)
    reading = of(found, "cache", "text_encoder_2").work
    embedded = 32128 * 4096
    assert reading.gemm.per_image + reading.attention.per_image == pytest.approx(
        2 * 512 * (4_762_310_656 - embedded), rel=0.05
    )


def test_a_mask_is_counted_in_the_cache():
    source = known("sd15")
    spec, _ = traced(family_of(source.index["_class_name"]), source, size=(256, 256), compute="bf16")
    plain = outside(spec, (256, 256)).entry
    weighed = outside(replace(spec, objective=Objective(mask_floor=0.5)), (256, 256))
    assert weighed.entry - plain == 32 * 32 * 4 + phases.ENTRY
    assert tuple(weighed.boundary["loss_weight"].shape) == (1, 1, 32, 32)


def test_an_entry_of_the_cache_is_the_boundary_s_bytes():
    found = traced_outside("flux-dev", 1024)
    latents, context, pooled = 2 * 16 * 128 * 128 * 4, 512 * 4096 * 2, 768 * 2
    assert found.entry == latents + context + pooled + 3 * phases.ENTRY
    assert {name: tuple(value.shape) for name, value in found.boundary.items()} == {
        "context": (1, 512, 4096),
        "latent_logvar": (1, 16, 128, 128),
        "latent_mean": (1, 16, 128, 128),
        "pooled": (1, 768),
    }


def test_an_encoder_that_is_streamed_needs_two_layers_and_what_is_outside_them():
    stage = of(traced_outside("qwen-image", 512), "cache", "text_encoder")
    layer = 3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944
    assert stage.weights - stage.layerwise_weights == pytest.approx(2 * 26 * layer, rel=1e-3)
    assert stage.layerwise_weights < 4.3 * GIB


def test_guidance_asks_twice():
    plain, guided = (
        next(
            each
            for each in traced_outside(
                "sd15", 512, params=SamplingParams(width=512, height=512, steps=1, guidance=g)
            ).stages
            if each.times == "sample step"
        )
        for g in (1.0, 7.5)
    )
    assert guided.work.gemm.per_image == pytest.approx(2 * plain.work.gemm.per_image, rel=0.01)
    assert guided.activations > 1.5 * plain.activations


def test_samples_have_their_own_size():
    small, large = (
        traced_outside("sd15", 512, params=SamplingParams(width=width, height=512, steps=1))
        for width in (512, 1024)
    )
    for one, other in zip(small.stages, large.stages, strict=True):
        if one.phase == "cache":
            assert one == other
        else:
            assert other.activations > 1.8 * one.activations
    assert of(small, "sample", "vae").tiled_activations is None
    assert of(large, "sample", "vae").tiled_activations == pytest.approx(
        of(small, "sample", "vae").activations, rel=0.05
    )


def test_memory_grows_with_the_image_unless_it_is_cut():
    small, large = (of(traced_outside("sd15", side), "cache", "vae") for side in (512, 2048))
    assert small.tiled_activations is None and large.tiled_activations is not None
    assert large.activations == pytest.approx(16 * small.activations, rel=0.01)
    assert small.activations < large.tiled_activations < 1.2 * small.activations


def test_every_registered_base_has_stages():
    for name in set(hub_bases()) - set(SIZES):
        assert len(traced_outside(name, 256).stages) >= 4


@pytest.fixture
def base(tiny_base: Path) -> Any:
    hush()
    return described(str(tiny_base), folders={})


def measured(step: Any) -> tuple[Any, int]:
    """What a step gave, and the most bytes that it allocated at a time, by the profiler's memory events."""
    with torch.no_grad(), profile(profile_memory=True) as watch:
        out = step()
    events = [each for each in watch.kineto_results.events() if each.name() == "[memory]"]  # pyright: ignore
    alive = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        alive += event.nbytes()  # pyright: ignore
        peak = max(peak, alive)
    return out, peak


def tracked(step: Any) -> int:
    """The most bytes that operations held on the CPU at a time, scratch inside kernels left aside."""
    with torch.no_grad(), Tracker("cpu", 1) as tracker:
        step()
    return tracker.peak


def test_a_true_run_takes_what_was_foreseen(base: Any):
    """Encoders of a tiny base on the CPU, for real, against the trace on the meta device."""
    family = family_of("FluxPipeline")
    spec, _ = traced(family, base, size=(128, 96), compute="fp32")
    found, cut = outside(spec, (128, 96), machine=CPU), spec.cut
    values: dict[str, Any] = {
        "image": torch.zeros(1, 3, 96, 128, dtype=torch.uint8),
        "caption": ("a cat",),
    }
    for unit in cut.frozen:
        models = {
            name: load(family, base, name, dtype=torch.float32, device=torch.device("cpu"))
            for name in unit.uses
        }
        step = partial(unit.run, models, dict(values))
        out, peak = measured(step)
        values |= out
        if unit.uses == ("vae",):  # oneDNN reorders a convolution's input inside its kernel
            assert peak > of(found, "cache", "vae").activations
            peak = tracked(step)
        if not is_tokenizer(unit.uses[0]):
            assert of(found, "cache", unit.uses[0]).activations == pytest.approx(peak, rel=0.01), unit.name


def test_tiles_of_a_small_autoencoder_take_what_was_foreseen(base: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "TILE_SIDE", 64)
    monkeypatch.setattr(phases, "TILE_SIDE", 64)
    family = family_of("FluxPipeline")
    spec, _ = traced(family, base, size=(256, 192), compute="fp32")
    found, cut = outside(spec, (256, 192), machine=CPU), spec.cut
    vae = load(family, base, "vae", dtype=torch.float32, device=torch.device("cpu"))
    engine.tile_vae(vae)
    (unit,) = (unit for unit in cut.frozen if unit.uses == ("vae",))
    image = torch.zeros(1, 3, 192, 256, dtype=torch.uint8)
    peak = tracked(lambda: unit.run({"vae": vae}, {"image": image}))
    assert of(found, "cache", "vae").tiled_activations == pytest.approx(peak, rel=0.15)
    at_once = sampling.batch_size(SamplingParams(width=256, height=192, steps=1), family)
    latents = torch.zeros(at_once, *found.boundary["latent_mean"].shape[1:])
    peak = tracked(lambda: vae.decode(latents))
    assert of(found, "sample", "vae").tiled_activations == pytest.approx(peak, rel=0.15)


def test_a_cache_has_the_bytes_that_were_foreseen(tiny_base: Path, photos: Path, tmp_path: Path):
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 0}))
    square = [view for view in resolved.views if view.size == (32, 32)][:1]
    resolved = replace(resolved, views=tuple(square), held_out=())
    cache, rows = Cache(tmp_path), all_rows(resolved)
    written = fill(resolved, cache, rows, survey(resolved, cache, rows), Told())
    found = outside(resolved.spec, (32, 32))
    assert written <= found.entry <= written + 3 * phases.ENTRY


def test_a_text_encoder_that_is_trained_is_no_stage(base: Any):
    family = family_of("FluxPipeline")
    how: dict[str, Any] = {"size": (32, 32), "compute": "fp32"}
    found = outside(traced(family, base, text_encoders={"text_encoder": 0}, **how)[0], (32, 32))
    assert [each.name.split()[0] for each in found.stages if each.phase == "cache"] == [
        "text_encoder_2",
        "vae",
    ]
    assert "clip_tokens" in found.boundary
    numbers = sum(path.stat().st_size for path in base.root.glob("*/*.safetensors")) // 4
    assert 0 < found.download == pytest.approx(2 * numbers, rel=0.1), "as if in 16 bits"
    partly, _ = traced(family, base, text_encoders={"text_encoder": 1}, **how)
    names = [each.name for each in outside(partly, (32, 32)).stages]
    assert "text_encoder reads a caption" in names, "the frozen layers below are computed once"


def test_a_streamed_encoder_holds_on_the_device_what_was_foreseen(
    tiny_base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    resolved = resolve(wish(tiny_base, photos, data={"validation_count": 0})).planned(
        Plan(encode_streamed=True)
    )
    found = outside(resolved.spec, (32, 32))
    engines: list[Any] = []
    true = encoders.equip
    monkeypatch.setattr(encoders, "equip", lambda *a, **k: engines.append(true(*a, **k)) or engines[-1])
    for part in ("text_encoder", "text_encoder_2"):
        with encoders.opened(resolved, part) as model:
            layers = model.get_submodule(str(heaviest(model)))
            outside_them = bytes_of([*model.parameters(), *model.buffers()])
            outside_them -= bytes_of([*layers.parameters(), *layers.buffers()])
            slots = sum(slot.room.numel() for slot in engines[-1].swapper.slots)
        padding = phases.SLOTS * 256 * len(list(layers[0].parameters()))
        least = of(found, "cache", part).layerwise_weights
        assert least <= outside_them + slots <= least + padding
