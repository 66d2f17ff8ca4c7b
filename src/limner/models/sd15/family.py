"""Stable Diffusion 1.x (Rombach et al. 2022, arXiv:2112.10752), and every base of the same architecture.

A convolutional denoiser of 0.86 billion weights that reads one CLIP text encoder. Weights:
stable-diffusion-v1-5/stable-diffusion-v1-5 (CreativeML Open RAIL-M), and finetunes in one file.
Oddities: made for 512 pixels; the filter that blanks pictures is left out. Objective: diffusers,
``train_text_to_image_lora.py`` and ``train_text_to_image.py``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from limner.graph.unit import Layers, unit
from limner.models import diffusion
from limner.models.clip import CLIP_LINEARS, tokenize
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.latents import draw_latent, encode_image
from limner.models.sd15.facts import FACTS
from limner.models.source import Source
from limner.nn import text


@unit("context", uses=("text_encoder",), layers=Layers(below=text.clip_below, above=text.clip_last_above))
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> Tensor:
    """(B, 77) -> (B, 77, 768), the last state, normalised."""
    return text_encoder(clip_tokens).last_hidden_state


@unit("pred", uses=("unet",))
def denoise(
    unet: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, *, steps: diffusion.Steps
) -> Tensor:
    """-> (B, 4, h, w), the noise or the velocity, as the base was made."""
    noisy = diffusion.noisy(latent, noise, steps.left(time))
    return unet(noisy, steps.number(time), encoder_hidden_states=context, return_dict=False)[0]


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with its own guidance of 7.5."""
    return diffusion.pipeline_kwargs(source, params, 7.5)


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's name of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"]}


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED = ("ff.net.0.proj", "ff.net.2")

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, encode_clip, encode_image, draw_latent)
    + (diffusion.draw_noise, diffusion.draw_time, denoise, diffusion.aim, diffusion.measure),
    text=("context",),
    supported_options=diffusion.SUPPORTED_OPTIONS,
    constants=diffusion.constants,
    targets={
        "attention": ATTENTION,
        "all-linear": ATTENTION + FEED,
        "locon": ATTENTION + FEED + ("proj_in", "proj_out") + diffusion.CONVOLUTIONS,
    },
    text_targets={"text_encoder": CLIP_LINEARS},
    layers={"text_encoder": "encoder.layers"},
    model_spec=lambda _: ("stable-diffusion-v1", "sd_v1"),
    multiple=8,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="negative-first"),
    arch=diffusion.ARCH,
    resolution=512,
    unused_parts=("safety_checker", "feature_extractor", "image_encoder"),
)
