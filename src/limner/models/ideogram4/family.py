"""Ideogram 4 (Ideogram 2026): a rectified-flow transformer of 9.3 billion weights in one stream, twice.

Weights: the authors publish fp8 and NF4 (ideogram-ai/ideogram-4-fp8, -nf4; gated, non-commercial); Limner
reads 16 bits.
Oddities: two models of one shape: ``transformer`` reads text and image and is trained;
``unconditional_transformer`` makes the negative pass of guidance on the image alone, and stays as it is. Text
is what thirteen layers of Qwen3-VL give, one beside the other, of true length. Its latents are FLUX.2's with
the channels of a patch in another order. The model counts time from noise to image and says the velocity
that way. Its pipeline takes prompts as text alone, and guidance that falls towards the end. It was trained on
captions in structured JSON; text is taken as it is.
Objective: diffusers, ``train_dreambooth_lora_ideogram4.py``; times are logit-normal of width 1.5, shifted by
the square root of the number of pixels, as the pipeline's own sigmas are.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.family import Family, Guidance, Objective, SamplingParams, mask_or_none
from limner.models.flux2.family import normalised
from limner.models.ideogram4.facts import FACTS
from limner.models.latents import draw_latent, draw_noise
from limner.models.source import Source
from limner.nn.arch import ArchSpec
from limner.nn.text import layer_outputs

LAYERS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 35)
"""Layers of the text encoder that are read; the pipeline's ``QWEN3_VL_ACTIVATION_LAYERS``."""
TEXT, IMAGE, PADDING = 3, 2, 0
"""What the transformer is told of each token: its ``indicator``."""
OFFSET = 65536
"""Of the image's positions from the text's; the transformer's ``IMAGE_POSITION_OFFSET``."""
TEXT_LENGTH = 2048
"""Most tokens of a caption, the pipeline's own: captions in JSON are long. A token is 106 KB in the cache."""
TIME_WIDTH = 1.5
TIME_TOKENS = 32 * 32
"""Tokens of an image of 512 pixels, where times are not shifted; the pipeline's ``base_resolution``."""
GUIDANCE, LAST_GUIDANCE, LAST = 7.0, 3.0, 3 / 48
"""The pipeline's guidance, that of its last steps, and which share of all those are."""


@unit("tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """One caption -> (1, L) token ids of the chat around it, at most ``text_length``."""
    (line,) = caption
    messages = [{"role": "user", "content": [{"type": "text", "text": line}]}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    cut = {"max_length": text_length, "truncation": True, "add_special_tokens": False}
    return tokenizer([chat], **cut, return_tensors="pt").input_ids


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(1, L) -> (1, L, 13 D), of each number of a state the thirteen in a row; and (1, L) True."""
    outputs = layer_outputs(text_encoder.language_model, tokens, LAYERS)
    return torch.stack(outputs, dim=-1).flatten(2), torch.ones_like(tokens, dtype=torch.bool)


def patchify(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): each 2x2 patch becomes channels, the old channel innermost."""
    batch, channels, height, width = latent.shape
    patches = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return patches.reshape(batch, channels * 4, height // 2, width // 2)


@unit("latent_mean", "latent_logvar", uses=("vae",))
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and log-variance of the normalised latent, each (B, 128, H/16, W/16)."""
    return normalised(vae, image, patchify)


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, text_mask: Tensor
) -> Tensor:
    """-> (B, 128, h, w), the velocity."""
    noisy = rectified.noisy(latent, noise, time)
    # the masks of the forward pass take the precision of the image's tokens, and all that follows theirs
    tokens, length = latents.tokens(noisy).to(context.dtype), context.shape[1]
    pred = transformer(
        hidden_states=pad(tokens, (0, 0, length, 0)),
        timestep=1 - time,
        encoder_hidden_states=pad(context, (0, 0, 0, tokens.shape[1])),
        **_layout(noisy, length, mask_or_none(text_mask)),
        return_dict=False,
    )[0]
    return -latents.untokens(pred[:, length:], noisy.shape[-2])


def _layout(noisy: Tensor, length: int, text_mask: Tensor | None) -> dict[str, Tensor]:
    """Where each token stands, with which it belongs, what it is: text (B, ``length``), then the image."""
    batch, _, height, width = noisy.shape
    text_mask = noisy.new_ones((batch, length), dtype=torch.bool) if text_mask is None else text_mask
    image_mask = noisy.new_ones((batch, height * width), dtype=torch.bool)
    image_ids = pad(latents.grid(height, width, noisy.device).long(), (1, 0)) + OFFSET
    text_ids = torch.arange(length, device=noisy.device)[:, None].expand(-1, 3)
    indicator = [torch.where(text_mask, TEXT, PADDING), torch.where(image_mask, IMAGE, PADDING)]
    return {
        "position_ids": torch.cat([text_ids, image_ids]).expand(batch, -1, -1),
        "segment_ids": torch.where(torch.cat([text_mask, image_mask], dim=1), 1, -1),
        "indicator": torch.cat(indicator, dim=1),
    }


def resolution_shift(tokens: int, shift: float = 1.0) -> float:
    """exp(mu), mu half the logarithm of the pixels beside 512 x 512; the sampler's own shift comes on top."""
    return shift * math.sqrt(tokens / TIME_TOKENS)


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    values = rectified.constants(source, objective, tokens=TEXT_LENGTH, patch=1)
    if objective.time_density in rectified.SHIFTLESS:
        return values
    rule = partial(resolution_shift, shift=float(source.config("scheduler").get("shift", 1.0)))
    shift = rule if objective.time_shift is None else objective.time_shift
    return {**values, "time_shift": shift, "time_width": TIME_WIDTH}


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: its own guidance, or one and the same at every step."""
    is_own = params.guidance is None and "guidance" not in source.facts
    last = round(LAST * params.steps)
    schedule = (GUIDANCE,) * (params.steps - last) + (LAST_GUIDANCE,) * last
    return {
        "guidance_scale": None if is_own else max(1.0, params.strength(source, GUIDANCE)),
        "guidance_schedule": schedule if is_own else None,
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source, TEXT_LENGTH),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """For :func:`encode_prompt`: of each prompt (L, 13 D), and how many tokens the longest has."""
    rows = [context[mask] for context, mask in zip(texts["context"], texts["text_mask"], strict=True)]
    return {"prompt": rows, "max_sequence_length": max(map(len, rows))}


def encode_prompt(
    pipe: Any, prompt: Sequence[Tensor], grid_h: int, grid_w: int, max_sequence_length: int, device: Any
) -> tuple[Tensor, ...]:
    """What the pipeline's own makes of prompts: padded on the left, with room for the image behind."""
    room = grid_h * grid_w
    rows = [pad(row, (0, 0, max_sequence_length - len(row), room)) for row in prompt]
    ids = pipe._prepare_ids([len(row) for row in prompt], grid_h, grid_w, max_sequence_length, device)
    return torch.stack(rows).to(device), *ids


ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
FEED = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")

ARCH = ArchSpec(
    blocks=("layers.*",),
    depths=("num_layers",),
    modulations=("layers.*.adaln_modulation",),  # that of the last layer reads another vector
    conditions=("t_embedding", "adaln_proj"),
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
    supported_options=rectified.SUPPORTED_OPTIONS,
    constants=constants,
    targets={"attention": ATTENTION, "all-linear": ATTENTION + FEED},
    text_targets={},
    layers={},
    model_spec=lambda _: ("Ideogram-4", "ideogram4"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    encode_prompt=encode_prompt,
    guidance=Guidance(model="unconditional_transformer"),
    arch=ARCH,
    padded_values=frozenset({"context", "text_mask"}),
)
