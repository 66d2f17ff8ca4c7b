"""Qwen-Image-Edit (Wu et al. 2025, arXiv:2508.02324): Qwen-Image that sees an image and edits it.

Weights: Qwen/Qwen-Image-Edit (Apache-2.0). The denoiser is that of Qwen-Image. The control image is seen
twice: by the text encoder, in the chat around the caption, and by the autoencoder, whose tokens stand behind
those of the noisy latent. Objective: that of Qwen-Image (``train_dreambooth_lora_qwen_image.py``) on the
inputs of the pipeline, as diffusers has no example. Times are shifted by the size of the target alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limner.data.control import ControlFit
from limner.graph.unit import unit
from limner.models import rectified
from limner.models.family import Controls, Objective, SamplingParams
from limner.models.qwen_image.family import FAMILY as QWEN_IMAGE
from limner.models.qwen_image.family import channels_of
from limner.models.qwen_image.family import encode_text as encode_plain_text
from limner.models.qwen_image.family import pipeline_kwargs as qwen_kwargs
from limner.models.qwen_image.family import tokenize as tokenize_plain
from limner.models.qwen_image_edit import vision
from limner.models.qwen_image_edit.facts import FACTS
from limner.models.source import Source

CHAT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a "
    "new image that meets the user's requirements while maintaining consistency with the original input "
    "where appropriate.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
"""What the model was trained to read captions and images in; its pipeline's ``prompt_template_encode``."""
TEMPLATE_TOKENS = 64
TEXT_LENGTH = 1024
"""Tokens of the user's part that are read; the pipeline's ``tokenizer_max_length``."""
MULTIPLE = 32
"""Of a control image's sides, in pixels."""


@unit("tokens", uses=("tokenizer",))
def tokenize(
    tokenizer: Any, caption: Sequence[str], *, text_length: int, controls: int, with_names: bool
) -> Tensor:
    """One caption -> (1, L) token ids of the chat around it, in which each image is one token.

    L is at most 64 + ``text_length``; the pipeline has no bound at all.
    """
    (text,) = caption
    names = [f"Picture {number}: " if with_names else "" for number in range(1, controls + 1)]
    chat = CHAT.format("".join(f"{name}{IMAGE}" for name in names) + text)
    cut = {"max_length": TEMPLATE_TOKENS + text_length, "truncation": True}
    return tokenizer([chat], **cut, return_tensors="pt").input_ids


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, *images: Tensor) -> tuple[Tensor, Tensor]:
    """(1, L), (1, 3, h, w) uint8 each -> (1, L', 3584) states behind the system's part, (1, L') True."""
    context = vision.states(text_encoder, tokens, images)[:, TEMPLATE_TOKENS:]
    return context, torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)


@unit("control_latent", uses=("vae",))
def encode_control(vae: Any, control: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> the mean of the normalised latent, (B, 16, h/8, w/8)."""
    pixels = control.to(vae.dtype) / 127.5 - 1
    middle, width = channels_of(vae, pixels)
    return (vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0] - middle) / width


def control_size(width: int, height: int, *, area: float) -> tuple[int, int]:
    """About so many pixels, in the same shape, the sides multiples of 32."""
    wide = math.sqrt(area * width / height)
    high = wide / (width / height)
    return max(1, round(wide / MULTIPLE)) * MULTIPLE, max(1, round(high / MULTIPLE)) * MULTIPLE


def control_fits(resolution: int) -> Mapping[str, ControlFit]:
    """The one size of a control image: the area that the base was made for."""
    return {"control": ControlFit(partial(control_size, area=resolution * resolution), MULTIPLE)}


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """As those of Qwen-Image, for longer texts; the one image of the text has no number."""
    length = rectified.text_length(source, TEXT_LENGTH)
    return {**rectified.constants(source, objective), "text_length": length, "with_names": False}


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """As Qwen-Image's; the text is as long as it is."""
    kwargs = qwen_kwargs(source, params)
    return {name: value for name, value in kwargs.items() if name != "max_sequence_length"}


UNITS = {tokenize_plain.name: tokenize, encode_plain_text.name: encode_text}

FAMILY = replace(
    QWEN_IMAGE,
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    units=tuple(UNITS.get(step.name, step) for step in QWEN_IMAGE.units),
    constants=constants,
    pipeline_kwargs=pipeline_kwargs,
    unused_parts=("processor",),
    controls=Controls(
        maximum=FACTS.controls[1],
        fits=control_fits,
        units=(encode_control,),
        reads={"encode_text": "control", "denoise": "control_latent"},
        fitted_by_pipeline=True,
        text_by_units=True,
    ),
)
