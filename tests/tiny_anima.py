"""A tiny Anima with random weights, saved in the true layout; its stock pipeline, called as others are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AnimaAutoBlocks,
    AnimaModularPipeline,
    AnimaTextConditioner,
    AutoencoderKLQwenImage,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import Qwen3Config, Qwen3Model

from limner.models.anima.padding import resize_by_torch
from tiny import TEXT, qwen_tokenizer, t5_tokenizer


def save_anima(folder: Path) -> Path:
    """Write a tiny Anima to ``folder``. Images of 32 px or more; text of 40 tokens."""
    torch.manual_seed(0)
    pipe = AnimaAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        text_encoder=Qwen3Model(Qwen3Config(**TEXT, head_dim=8)),
        tokenizer=qwen_tokenizer(),
        t5_tokenizer=t5_tokenizer(),
        text_conditioner=AnimaTextConditioner(
            source_dim=16,
            target_dim=16,
            model_dim=16,
            num_layers=2,
            num_attention_heads=2,
            target_vocab_size=64,
            min_sequence_length=40,
        ),
        transformer=CosmosTransformer3DModel(
            num_layers=2,
            attention_head_dim=18,  # a third of it for each axis, and in pairs
            num_attention_heads=2,
            mlp_ratio=1.5,
            text_embed_dim=16,
            adaln_lora_dim=8,
            rope_scale=(1.0, 4.0, 4.0),
            extra_pos_embed_type=None,
        ),
    )
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    facts = {"resolution": 32, "guidance": 2.0, "text_length": 40}
    (folder / "limner.json").write_text(json.dumps(facts))
    return folder


class Stock(AnimaModularPipeline):
    """diffusers' pipeline on parts that are there, with the scale of guidance among its arguments."""

    def __init__(self, **parts: Any) -> None:
        resize_by_torch()
        super().__init__()
        self.update_components(**parts)

    @classmethod
    def from_pretrained(cls, folder: Any) -> Any:
        """The pipeline as diffusers makes it."""
        return AnimaModularPipeline.from_pretrained(folder)

    def __call__(self, *, guidance_scale: float, output_type: str = "pil", **options: Any) -> Any:
        self.update_components(guider=self.guider.new(guidance_scale=guidance_scale))
        state = super().__call__(**options, output_type="pt" if output_type == "latent" else output_type)
        return SimpleNamespace(images=state.latents) if output_type == "latent" else state


def with_parts(pipe: Any) -> Stock:
    """A stock pipeline as it is made from a folder, with its parts loaded."""
    pipe.load_components()
    return Stock(**pipe.components)
