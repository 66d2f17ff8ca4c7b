"""With LoRAs on branches of guidance, a picture is that of two hand-made passes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from limner.errors import BadLora, BadRecipe
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.factors import Factors, rename_for_model
from limner.lora.metadata import SamplingHints
from limner.models.registry import embedded_bases
from messages import raises
from small import Told, generated
from tiny import save_flux


def look(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), float)


def paint(target: Path, out: Path, *, base: str | None = None, settings: Settings) -> list[Path]:
    return generated(target, out, "zorb: a, B!", base=base, settings=settings)


@pytest.fixture(scope="module")
def loras(tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    """Two strong LoRAs on the denoiser and both text encoders of the tiny base."""
    pipe = FluxPipeline.from_pretrained(tiny_base)
    folder = tmp_path_factory.mktemp("loras")
    paths = folder / "one.safetensors", folder / "two.safetensors"
    for number, path in enumerate(paths):
        draw = torch.Generator().manual_seed(number)
        components = {}
        for component, ending in (
            ("transformer", "attn.to_q"),
            ("text_encoder", "q_proj"),
            ("text_encoder_2", "q"),
        ):
            components[component] = {
                name: Factors(
                    torch.randn(2, layer.in_features, generator=draw),
                    torch.randn(layer.out_features, 2, generator=draw),
                )
                for name, layer in getattr(pipe, component).named_modules()
                if name.endswith(f".{ending}")
            }
        file.write(path, components, {"ss_sd_model_name": str(tiny_base)})
    return paths


def merged(base: Path | str, *loras: tuple[Path, float]) -> FluxPipeline:
    """The stock pipeline with LoRAs in its weights."""
    pipe = FluxPipeline.from_pretrained(base)
    for path, scale in loras:
        for component, adapter in file.read(path).components.items():
            layers = dict(getattr(pipe, component).named_modules())
            for name, factors in rename_for_model(adapter, layers).items():
                layers[name].weight.data += scale * factors.up @ factors.down
    return pipe


@torch.no_grad()
def hand_made(
    positive: FluxPipeline, negative: FluxPipeline, side: int, length: int, guidance: float
) -> np.ndarray:
    """Two Euler steps, each of two passes: the prompt through one model, the empty one through the other."""
    channels = positive.transformer.config.in_channels // 4
    half = side // positive.vae_scale_factor // 2
    noise = torch.randn(1, channels, 2 * half, 2 * half, generator=torch.Generator().manual_seed(3))
    x = noise.view(1, channels, half, 2, half, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, half**2, -1)
    texts = [
        pipe.encode_prompt(prompt, None, max_sequence_length=length)
        for pipe, prompt in ((positive, "zorb: a, B!"), (negative, ""))
    ]
    positive.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=None)
    ids = positive._prepare_latent_image_ids(1, half, half, "cpu", torch.float32)
    for sigma, after in zip(positive.scheduler.sigmas[:-1], positive.scheduler.sigmas[1:], strict=True):
        yes, no = (
            pipe.transformer(
                x, context, pooled, sigma[None], img_ids=ids, txt_ids=text_ids, return_dict=False
            )[0]
            for pipe, (context, pooled, text_ids) in zip((positive, negative), texts, strict=True)
        )
        x = x + (after - sigma) * (no + guidance * (yes - no))
    x = positive._unpack_latents(x, side, side, positive.vae_scale_factor)
    config = positive.vae.config
    pixels = positive.vae.decode(x / config.scaling_factor + config.shift_factor).sample
    return ((pixels[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy()


def apart(path: Path, pixels: np.ndarray) -> float:
    return float(np.abs(look(path) - pixels).max())


def test_the_lora_on_the_positive_branch_is_two_hand_made_passes(loras, tiny_base, tmp_path):
    """Text encoders included; at a strength; and with another LoRA on the negative branch."""
    one, two = loras
    quick = {"steps": 2, "seed": 3, "guidance": 3.0, "lora_scale": 0.5}
    (path,) = paint(one, tmp_path / "positive", settings=Settings(lora_on="positive", **quick))
    plain, half = merged(tiny_base), merged(tiny_base, (one, 0.5))
    assert apart(path, hand_made(half, plain, 32, 12, 3.0)) <= 1
    assert apart(path, hand_made(half, half, 32, 12, 3.0)) > 8
    (path,) = paint(one, tmp_path / "negative", settings=Settings(negative_lora=two, **quick))
    assert apart(path, hand_made(half, merged(tiny_base, (two, 0.5)), 32, 12, 3.0)) <= 1
    assert apart(path, hand_made(half, plain, 32, 12, 3.0)) > 8
    (path,) = paint(one, tmp_path / "both", settings=Settings(**quick))
    assert apart(path, hand_made(half, half, 32, 12, 3.0)) <= 1


def test_the_embedded_base_with_a_lora_on_the_positive_branch(tmp_path):
    folder = embedded_bases()["glyph"]
    pipe = FluxPipeline.from_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    adapter = {
        name: Factors(
            torch.randn(4, layer.in_features, generator=draw) / layer.in_features**0.5,
            torch.randn(layer.out_features, 4, generator=draw) / 4,
        )
        for name, layer in pipe.transformer.named_modules()
        if name.endswith("attn.to_v")
    }
    lora = tmp_path / "lora.safetensors"
    hints = SamplingHints(lora_on="positive", guidance=2.0)
    file.write(lora, {"transformer": adapter}, {"ss_sd_model_name": "glyph", **hints.entries()})
    (path,) = paint(lora, tmp_path, settings=Settings(steps=2, seed=3))
    assert apart(path, hand_made(merged(folder, (lora, 1.0)), merged(folder), 64, 20, 2.0)) <= 1


def test_what_a_lora_asks_for_is_told(loras, tiny_base, tmp_path):
    one, two = (Path(shutil.copy(path, tmp_path)) for path in loras)
    hints = SamplingHints(negative_lora=two.name, guidance=3.0)
    asking = tmp_path / "asking.safetensors"
    file.write(asking, file.read(one).components, {"ss_sd_model_name": str(tiny_base), **hints.entries()})
    told = Told()
    settings = Settings(steps=1)
    generated(asking, tmp_path, "a", told=told, base=str(tiny_base), settings=settings)
    assert told.lines[-1] == (
        "As asking.safetensors asks for: the LoRA on the positive branch only, two.safetensors on the "
        "negative one, guidance 3."
    )
    two.unlink()
    with raises(BadLora):
        paint(asking, tmp_path, base=str(tiny_base), settings=settings)


def test_branches_that_are_not_there_are_told(loras, tmp_path):
    with raises(BadRecipe):
        paint(loras[0], tmp_path, settings=Settings(lora_on="positive", guidance=1.0))
    with raises(BadRecipe):
        paint(
            loras[0],
            tmp_path,
            base=str(save_flux(tmp_path / "dev", guided=True)),
            settings=Settings(negative_lora=loras[1]),
        )
