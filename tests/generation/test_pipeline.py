import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.assembly.base import family_at
from limner.errors import BadBase, BadRecipe
from limner.generation.pipeline import pipeline, set_strengths
from limner.lora import file
from limner.lora.factors import Factors
from limner.lora.location import locate_base


def test_the_base_alone_paints_and_takes_settings_of_its_sampler(tiny_base):
    source = locate_base(str(tiny_base))
    family = family_at(source)
    pipe = pipeline(family, source, overrides={"shift": 5.0})
    assert pipe.scheduler.config["shift"] == 5.0
    image = pipe("zorb", num_inference_steps=1, width=32, height=32).images[0]
    assert np.asarray(image).shape == (32, 32, 3)
    with pytest.raises(BadRecipe, match="knows no no_such_setting"):
        pipeline(family, source, overrides={"no_such_setting": True})


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "vae", "transformer"])
def test_a_base_that_lacks_a_tensor_paints_nothing(tiny_base, tmp_path, part):
    """Its libraries would go on with random numbers, and show an image."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    path = next((base / part).glob("*.safetensors"))
    tensors = load_file(path)
    endings = ("q_proj.weight", "q.weight", "to_q.weight", "decoder.conv_in.weight")
    name = next(name for name in sorted(tensors) if name.endswith(endings))
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    source = locate_base(str(base))
    with pytest.raises(BadBase, match=f"{part}/ lacks 1 tensors: "):
        pipeline(family_at(source), source)


@pytest.fixture
def loras(tmp_path):
    """Two LoRAs on the denoiser and on both text encoders, one of which diffusers passes over."""
    paths = {}
    for name, seed in (("one", 0), ("two", 1)):
        draw = torch.Generator().manual_seed(seed)
        factors = lambda wide, high, draw=draw: Factors(  # noqa: E731
            torch.randn(2, wide, generator=draw), torch.randn(high, 2, generator=draw)
        )
        components = {
            "transformer": {"transformer_blocks.0.attn.to_q": factors(32, 32)},
            "text_encoder": {"encoder.layers.0.self_attn.q_proj": factors(16, 16)},
            "text_encoder_2": {"encoder.block.0.layer.0.SelfAttention.q": factors(16, 16)},
        }
        paths[name] = tmp_path / f"{name}.safetensors"
        file.write(paths[name], components, {})
    return paths


def parts_of(pipe) -> list[np.ndarray]:
    """What each of the adapted layers makes of ones."""
    layers = (
        pipe.transformer.transformer_blocks[0].attn.to_q,
        pipe.text_encoder.encoder.layers[0].self_attn.q_proj,
        pipe.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q,
    )
    with torch.no_grad():
        return [layer(torch.ones(1, layer.in_features)).numpy() for layer in layers]


def test_strengths_reach_the_denoiser_and_every_text_encoder(tiny_base, loras):
    source = locate_base(str(tiny_base))
    family = family_at(source)
    base = parts_of(pipeline(family, source))
    single = {name: parts_of(pipeline(family, source, {name: path})) for name, path in loras.items()}
    pipe = pipeline(family, source, loras)
    for strengths in ({"one": 1.0, "two": 1.0}, {"one": 0.5}, {"two": -2.0, "one": 0.0}, {}, {"one": 0.0}):
        set_strengths(pipe, strengths)
        for number, ours in enumerate(parts_of(pipe)):
            change = sum(
                (scale * (single[name][number] - base[number]) for name, scale in strengths.items()),
                np.zeros_like(base[number]),
            )
            np.testing.assert_allclose(ours, base[number] + change, rtol=0, atol=1e-4)
            assert np.array_equal(ours, base[number]) == (not any(strengths.values()))
