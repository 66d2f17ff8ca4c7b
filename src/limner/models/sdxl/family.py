"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952), and every base of the same architecture.

A convolutional denoiser of 2.6 billion weights with two CLIP text encoders. Weights:
stabilityai/stable-diffusion-xl-base-1.0 (CreativeML Open RAIL++-M), and finetunes in one file.
Oddities: the denoiser is told the size of the file's image and where it was cropped, so that small or cropped
images do not teach it to paint such; its VAE overflows in fp16, so it runs in fp32; the states that it reads
are those before the last layer of each CLIP. Objective: diffusers, ``train_text_to_image_lora_sdxl.py``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.graph.unit import Layers, unit
from limner.models import diffusion
from limner.models.clip import CLIP_LINEARS, encode_both, tokenize, tokenize_2
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.latents import draw_latent, encode_image
from limner.models.sdxl.facts import FACTS
from limner.models.source import Source
from limner.nn import text


@unit(
    "context", uses=("text_encoder",), layers=Layers(below=text.clip_below, above=text.clip_penultimate_above)
)
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> Tensor:
    """(B, 77) -> (B, 77, 768), the state before the last layer, which never runs."""
    hidden = text.clip_below(text_encoder, clip_tokens, until=0)
    return text.clip_penultimate_above(text_encoder, hidden, clip_tokens, since=0)


@unit("time_ids")
def describe(frame: Tensor) -> Tensor:
    """(B, 6) sizes and places in pixels -> the same in fp32."""
    return frame.float()


@unit("pred", uses=("unet",))
def denoise(  # noqa: PLR0913  what SDXL's denoiser reads is what it reads
    unet: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    context: Tensor,
    context_2: Tensor,
    pooled_2: Tensor,
    time_ids: Tensor,
    *,
    steps: diffusion.Steps,
) -> Tensor:
    """-> (B, 4, h, w), the noise or the velocity, as the base was made."""
    return unet(
        diffusion.noisy(latent, noise, steps.left(time)),
        steps.number(time),
        encoder_hidden_states=torch.cat([context, context_2], dim=-1),
        added_cond_kwargs={"text_embeds": pooled_2, "time_ids": time_ids},
        return_dict=False,
    )[0]


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with its own guidance of 5."""
    return diffusion.pipeline_kwargs(source, params, 5.0)


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    context = torch.cat([texts["context"], texts["context_2"]], dim=-1)
    return {"prompt_embeds": context, "pooled_prompt_embeds": texts["pooled_2"]}


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, tokenize_2, encode_clip, encode_both, encode_image, describe, draw_latent)
    + (diffusion.draw_noise, diffusion.draw_time, denoise, diffusion.aim, diffusion.measure),
    text=("context", "context_2", "pooled_2"),
    supported_options=diffusion.SUPPORTED_OPTIONS,
    constants=diffusion.constants,
    targets={
        "attention": ATTENTION,
        "all-linear": ATTENTION + FEED,
        "locon": ATTENTION + FEED + diffusion.CONVOLUTIONS,
    },
    text_targets={"text_encoder": CLIP_LINEARS, "text_encoder_2": CLIP_LINEARS},
    layers={"text_encoder": "encoder.layers", "text_encoder_2": "text_model.encoder.layers"},
    idle_layers={"text_encoder": 1},
    model_spec=lambda _: ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    multiple=8,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="negative-first"),
    arch=diffusion.ARCH,
    unused_parts=("image_encoder", "feature_extractor"),
)
