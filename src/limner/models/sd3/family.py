"""Stable Diffusion 3.5 (Esser et al. 2024, arXiv:2403.03206), medium and large.

A rectified-flow transformer with three text encoders: two CLIPs side by side, T5 behind them in the sequence.
Weights: stabilityai/stable-diffusion-3.5-medium and -large (Stability AI Community License, gated).
Oddities: CLIP's states are padded with zeros to the width of T5's; text is padded, never masked; in the first
blocks of medium the image attends to itself once more. Objective: diffusers, ``train_dreambooth_lora_sd3.py``
with the velocity as it is (``--precondition_outputs 0``): its default weighs each sample by its squared time.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.graph.unit import Layers, unit
from limner.models import rectified
from limner.models.clip import CLIP_LINEARS, T5_LINEARS, encode_both, tokenize, tokenize_2
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.sd3.facts import FACTS
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec


@unit("t5_tokens", uses=("tokenizer_3",))
def tokenize_3(tokenizer_3: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """B captions -> (B, text_length) token ids."""
    return text.padded(tokenizer_3, caption, text_length)


@unit(
    "context",
    "pooled",
    uses=("text_encoder",),
    layers=Layers(below=text.clip_below, above=text.clip_both_above),
)
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77) -> (B, 77, D), the state before the last layer, and (B, P), the pooled one, projected."""
    return text.clip_both(text_encoder, clip_tokens)


@unit("context_3", uses=("text_encoder_3",), layers=Layers(below=text.t5_below, above=text.t5_above))
def encode_t5(text_encoder_3: nn.Module, t5_tokens: Tensor) -> Tensor:
    """(B, L) -> (B, L, D_t5)."""
    return text_encoder_3(t5_tokens).last_hidden_state


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    context: Tensor,
    pooled: Tensor,
    context_2: Tensor,
    pooled_2: Tensor,
    context_3: Tensor,
) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    return transformer(
        hidden_states=rectified.noisy(latent, noise, time),
        timestep=time * 1000,
        encoder_hidden_states=together(context, context_2, context_3),
        pooled_projections=torch.cat([pooled, pooled_2], dim=-1),
        return_dict=False,
    )[0]


def together(context: Tensor, context_2: Tensor, context_3: Tensor) -> Tensor:
    """States of the CLIPs side by side, widened with zeros to (B, 77, D_t5), and T5's behind them."""
    clip_states = torch.cat([context, context_2], dim=-1)
    return torch.cat([pad(clip_states, (0, context_3.shape[-1] - clip_states.shape[-1])), context_3], dim=1)


TOKENS = 256
"""Of T5, unless the base says otherwise."""


def model_spec(source: Source) -> tuple[str, str]:
    """Large has 38 blocks, medium 24."""
    size = "large" if source.config("transformer").get("num_layers", 0) > 24 else "medium"
    return f"stable-diffusion-3-5-{size}", f"sd3_5_{size}"


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with the guidance of 4.5 of medium's model card."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, 4.5),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source, TOKENS),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {
        "prompt_embeds": together(texts["context"], texts["context_2"], texts["context_3"]),
        "pooled_prompt_embeds": torch.cat([texts["pooled"], texts["pooled_2"]], dim=-1),
    }


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEED = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, tokenize_2, tokenize_3, encode_clip, encode_both, encode_t5, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context", "pooled", "context_2", "pooled_2", "context_3"),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"},
    constants=partial(rectified.constants, tokens=TOKENS),
    targets={"attention": ATTENTION, "all-linear": ATTENTION + FEED},
    text_targets={
        "text_encoder": CLIP_LINEARS,
        "text_encoder_2": CLIP_LINEARS,
        "text_encoder_3": T5_LINEARS,
    },
    layers={
        "text_encoder": "text_model.encoder.layers",
        "text_encoder_2": "text_model.encoder.layers",
        "text_encoder_3": "encoder.block",
    },
    model_spec=model_spec,
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    unused_parts=("image_encoder", "feature_extractor"),
    guidance=Guidance(passes="negative-first"),
    distilled=partial(rectified.distilled, to_minimum=True),
    arch=ArchSpec(
        blocks=("transformer_blocks.*",),
        depths=("num_layers",),
        listed=("dual_attention_layers",),
        modulations=("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear")
        + ("norm_out.linear",),
        conditions=("time_text_embed",),
        tails=("transformer_blocks.*.ff.net.2", "transformer_blocks.*.ff_context.net.2"),
    ),
)
