"""Qwen-Image (Wu et al. 2025, arXiv:2508.02324).

A rectified-flow transformer of 20 billion weights that reads a vision-language model's last state of the
caption. Weights: Qwen/Qwen-Image (Apache-2.0).
Oddities: a caption is wrapped in a chat, whose first 34 tokens are dropped again; text has its true length,
and where lengths differ in a batch the rest is masked; the autoencoder is that of a video model, each channel
with a mean and a spread of its own. Objective: diffusers, ``train_dreambooth_lora_qwen_image.py``; times are
logit-normal and shifted with the image size as the sampler does (musubi-tuner's ``qwen_shift``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.family import Family, SamplingParams, mask_or_none
from limner.models.latents import draw_latent, draw_noise
from limner.models.qwen_image.facts import FACTS
from limner.models.source import Source
from limner.nn.arch import ArchSpec

CHAT = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What the model was trained to read captions in; its pipeline's ``prompt_template_encode``."""
TEMPLATE_TOKENS = 34


@unit("tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """One caption -> (1, L) token ids of the chat around it, at most 34 + ``text_length``.

    The pipeline cuts states rather than tokens, which is the same: no token sees what comes after it.
    """
    (text,) = caption
    cut = {"max_length": TEMPLATE_TOKENS + text_length, "truncation": True}
    return tokenizer([CHAT.format(text)], **cut, return_tensors="pt").input_ids


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(1, L) -> (1, L', 3584) states behind the system's part of the chat, and (1, L') True."""
    states = text_encoder.model(input_ids=tokens, use_cache=False).last_hidden_state  # no padding, so no mask
    caption_states = states[:, TEMPLATE_TOKENS:]
    return caption_states, torch.ones(
        caption_states.shape[:2], dtype=torch.bool, device=caption_states.device
    )


@unit("latent_mean", "latent_logvar", uses=("vae",), version=2)
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and log-variance of the normalised latent, each (B, 16, H/8, W/8)."""
    pixels = image.to(vae.dtype) / 127.5 - 1
    posterior = vae.encode(pixels[:, :, None]).latent_dist
    middle, width = channels_of(vae, pixels)
    return (posterior.mean[:, :, 0] - middle) / width, posterior.logvar[:, :, 0] - 2 * width.log()


def channels_of(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each channel of the latent, (1, 16, 1, 1), where and as ``like`` is."""
    middle, width = (
        torch.tensor(numbers, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    return middle, width


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    context: Tensor,
    text_mask: Tensor,
    *control_latents: Tensor,
) -> Tensor:
    """-> (B, 16, h, w), the velocity. Tokens of control images follow those of the noisy latent."""
    noisy = latents.patchify(rectified.noisy(latent, noise, time))
    grids = [noisy, *(latents.patchify(control) for control in control_latents)]
    pred = transformer(
        hidden_states=latents.joined([latents.tokens(grid) for grid in grids], dim=1),
        encoder_hidden_states=context,
        encoder_hidden_states_mask=mask_or_none(text_mask),
        timestep=time,
        img_shapes=[[(1, *grid.shape[-2:]) for grid in grids]] * len(latent),
        return_dict=False,
    )[0]
    return latents.unpatchify(latents.untokens(latents.first_grid(pred, grids), noisy.shape[-2]))


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: true guidance of 4, as the model's page says."""
    return {
        "negative_prompt": "",
        "true_cfg_scale": params.strength(source, 4.0),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor | None]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"], "prompt_embeds_mask": texts["text_mask"].long()}


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
JOINT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
FEED = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

ARCH = ArchSpec(
    blocks=("transformer_blocks.*",),
    depths=("num_layers",),
    modulations=("transformer_blocks.*.img_mod.1", "transformer_blocks.*.txt_mod.1", "norm_out.linear"),
    conditions=("time_text_embed",),
    tails=("transformer_blocks.*.img_mlp.net.2", "transformer_blocks.*.txt_mlp.net.2"),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, encode_text, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context", "text_mask"),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"},
    constants=rectified.constants,
    targets={"attention": ATTENTION + JOINT, "all-linear": ATTENTION + JOINT + FEED},
    text_targets={},
    layers={},
    model_spec=lambda _: ("Qwen-Image", "qwen_image"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    arch=ARCH,
    distilled=rectified.distilled,
    padded_values=frozenset({"context", "text_mask"}),
)
