import math
import re
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from limner.errors import BadLora
from limner.lora.tables import family_keys
from limner.models.key_map import KeyStyle
from limner.models.registry import lora_keys
from messages import raises

DIFFUSERS, NATIVE = KeyStyle("", "diffusers"), KeyStyle("", "native")
SDXL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35_MEDIUM = {"num_attention_heads": 24, "caption_projection_dim": 1536}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "flux": ("FluxTransformer2DModel", {"guidance_embeds": True}, ""),
    "flux2": ("Flux2Transformer2DModel", {}, ""),
    "krea2": ("Krea2Transformer2DModel", {}, ""),
    "qwen-image": ("QwenImageTransformer2DModel", {}, ""),
    "z-image": ("ZImageTransformer2DModel", {}, ""),
    "sd3": (
        "SD3Transformer2DModel",
        {"num_layers": 24, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm", **SD35_MEDIUM},
        "",
    ),
    "sdxl": ("UNet2DConditionModel", SDXL, ""),
    "sd15": ("UNet2DConditionModel", {"cross_attention_dim": 768}, ""),
}


@pytest.mark.parametrize("family", MODELS)
def test_every_layer_of_the_true_model_has_a_name(family: str) -> None:
    kind, config, without = MODELS[family]
    with torch.device("meta"):
        model = getattr(diffusers, kind)(**config)
    layers = [n for n, each in model.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    table = lora_keys()[family].table
    places = {name: table.find(name, DIFFUSERS) for name in layers}
    assert [
        name for name, place in places.items() if place is None and not re.fullmatch(without or "-", name)
    ] == []
    for name, layer in model.named_modules():  # what is known of shapes and kernels is true of this one
        if isinstance(layer, nn.Linear | nn.Conv2d):
            rows, *sides = layer.weight.shape
            assert lora_keys()[family].has_shape(name, (rows, math.prod(sides))), name
            assert lora_keys()[family].kernel(name) == tuple(sides[1:]), name
    natives = {table.name_of(place, "native") + str(place.member) for place in places.values() if place}
    assert len(natives) == sum(place is not None for place in places.values())
    for place in places.values():
        if place:
            assert table.find(table.name_of(place, "native"), NATIVE) is not None


@pytest.mark.parametrize(
    ("family", "module", "native"),
    [
        ("sdxl", "down_blocks.1.attentions.0.proj_out", "input_blocks.4.1.proj_out"),
        ("sdxl", "down_blocks.2.resnets.0.conv_shortcut", "input_blocks.7.0.skip_connection"),
        ("sdxl", "down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("sdxl", "up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
        ("sdxl", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("sdxl", "up_blocks.2.resnets.1.conv1", "output_blocks.7.0.in_layers.2"),
        ("sdxl", "mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("sdxl", "add_embedding.linear_2", "label_emb.0.2"),
        ("sd15", "up_blocks.3.attentions.2.proj_in", "output_blocks.11.1.proj_in"),
        ("sd15", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("flux", "time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
        ("flux", "norm_out.linear", "final_layer.adaLN_modulation.1"),
        ("flux2", "single_transformer_blocks.7.attn.to_out", "single_blocks.7.linear2"),
        ("z-image", "all_final_layer.2-1.linear", "final_layer.linear"),
        ("sd3", "time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ],
)  # fmt: skip
def test_names_as_the_authors_have_them(family: str, module: str, native: str) -> None:
    table = lora_keys()[family].table
    place = table.find(module, DIFFUSERS)
    assert place is not None
    assert table.name_of(place, "native") == native


def test_a_family_is_found_by_its_pipeline() -> None:
    assert family_keys("Flux2KleinPipeline").family == "flux2"
    assert family_keys("sdxl").pipelines == ("StableDiffusionXLPipeline",)
    with raises(BadLora):
        family_keys("sd9")
