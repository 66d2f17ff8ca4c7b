import pytest
import torch

import tiny
from limner.assembly.base import family_at
from limner.generation.arrangement import Arrangement
from limner.generation.pipeline import on_host, set_strengths
from limner.lora import diffusers_loader, file
from limner.lora.factors import Factors
from limner.lora.location import locate_base
from limner.planning.generation import RESIDENT, GenerationPlan

STRONGEST = GenerationPlan(model_offload=True, swapped_blocks=2, layerwise_encoders=True)
CPU = torch.device("cpu")
LAYERS = {
    "save_flux": "transformer_blocks.0.attn.to_q",
    "save_sdxl": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "save_qwen_image": "transformer_blocks.0.attn.to_q",
}


def pixels(pipe) -> bytes:
    draw = torch.Generator().manual_seed(0)
    return pipe("zorb", num_inference_steps=2, width=32, height=32, generator=draw).images[0].tobytes()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("save", LAYERS)
def test_models_that_take_turns_give_the_same_image_to_the_bit(save, tmp_path):
    """With an adapter that is loaded while they rest; going back to the plain way leaves nothing behind."""
    source = locate_base(str(getattr(tiny, save)(tmp_path / "base")))
    family = family_at(source)
    pipe = on_host(family, source)
    arrangement = Arrangement(pipe, family, CPU, 0)
    arrangement.follow(RESIDENT)
    base = pixels(pipe)
    arrangement.follow(STRONGEST)
    assert pixels(pipe) == base
    layer = getattr(pipe, family.denoiser).get_submodule(LAYERS[save])
    draw = torch.Generator().manual_seed(1)
    up, down = torch.randn(layer.out_features, 2, generator=draw), torch.randn(2, layer.in_features)
    file.write(tmp_path / "lora.safetensors", {family.denoiser: {LAYERS[save]: Factors(down, up)}}, {})
    arrangement.rest()
    diffusers_loader.load(pipe, tmp_path / "lora.safetensors", "lora")
    arrangement.settle()
    set_strengths(pipe, {"lora": 4.0})
    streamed = pixels(pipe)
    arrangement.follow(RESIDENT)
    assert streamed == pixels(pipe) and streamed != base
    assert not any(hasattr(model, "_hf_hook") for model in pipe.components.values())
