"""Krea 2 (Krea 2026): a rectified-flow transformer of 12.9 billion weights in one stream of text and image.

Weights: krea/Krea-2-Raw, the base to train on, and krea/Krea-2-Turbo, distilled to eight steps (both gated,
Krea 2 Community License).
Oddities: text is twelve inner states of Qwen3-VL per token, which the transformer itself fuses; a caption is
wrapped in a chat, whose first 34 tokens are dropped again, and its end follows behind the cut; norms stay in
fp32 in a bf16 model; guidance of g means ``cond + g (cond - uncond)``, 0 for none. The stock pipeline pads
text to 512 tokens and masks the padding, which takes no position: text of its true length is the same.
Objective: diffusers, ``train_dreambooth_lora_krea2.py``; times are logit-normal and shifted as the sampler
does: by the image's size, or by exp(1.15) for a distilled base.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.family import Family, Guidance, Objective, SamplingParams, mask_or_none
from limner.models.krea2.facts import FACTS
from limner.models.latents import draw_latent, draw_noise
from limner.models.qwen_image.family import encode_image
from limner.models.source import Source
from limner.nn.arch import ArchSpec

PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
"""What the model was trained to read captions in; its pipeline's ``prompt_template_encode_*``."""
PREFIX_TOKENS, SUFFIX_TOKENS = 34, 5
STATES = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
"""Inner states of the text encoder that are read, unless ``model_index.json`` says others."""
DISTILLED_SHIFT = math.exp(1.15)
"""The pipeline's fixed shift for a distilled base."""


@unit("tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """One caption -> (1, L) token ids of the chat around it, at most 34 + ``text_length``."""
    (line,) = caption
    cut = {"max_length": PREFIX_TOKENS + text_length - SUFFIX_TOKENS, "truncation": True}
    parts = [tokenizer([PREFIX + line], **cut, return_tensors="pt"), tokenizer([SUFFIX], return_tensors="pt")]
    return torch.cat([part.input_ids for part in parts], dim=1)


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, *, states: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(1, L) -> (1, L', 12, 2560) inner states behind the system's part of the chat, and (1, L') True."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(3, 1, -1)  # time, height, width
    options = {"output_hidden_states": True, "use_cache": False}  # no padding, so no mask
    hidden = text_encoder.language_model(input_ids=tokens, position_ids=positions, **options).hidden_states
    context = torch.stack([hidden[number] for number in states], dim=2)[:, PREFIX_TOKENS:]
    return context, torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, text_mask: Tensor
) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    noisy = latents.patchify(rectified.noisy(latent, noise, time))
    height, width = noisy.shape[-2:]
    image_ids = pad(latents.grid(height, width, noisy.device), (1, 0))  # (frame 0, row, column)
    pred = transformer(
        hidden_states=latents.tokens(noisy),
        encoder_hidden_states=context,
        timestep=time,
        position_ids=pad(image_ids, (0, 0, context.shape[1], 0)),  # all text stands at the origin
        encoder_attention_mask=mask_or_none(text_mask),
        return_dict=False,
    )[0]
    return latents.unpatchify(latents.untokens(pred, height))


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    distilled = source.index.get("is_distilled")
    return {
        **rectified.constants(
            source, objective, shift_rule=(lambda _: DISTILLED_SHIFT) if distilled else None
        ),
        "states": tuple(source.index.get("text_encoder_select_layers") or STATES),
    }


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: guidance of 4.5, or none for a distilled base."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, 0.0 if source.index.get("is_distilled") else 4.5),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"], "prompt_embeds_mask": texts["text_mask"]}


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_gate")
FEED = ("ff.gate", "ff.up", "ff.down")
OUTER = ("img_in", "final_layer.linear", "text_fusion.projector", "txt_in.linear_1", "txt_in.linear_2") + (
    "time_embed.linear_1",
    "time_embed.linear_2",
    "time_mod_proj",
)
"""Layers outside the blocks that the authors train as well."""

ARCH = ArchSpec(
    blocks=("text_fusion.layerwise_blocks.*", "text_fusion.refiner_blocks.*", "transformer_blocks.*"),
    depths=("num_layerwise_text_blocks", "num_refiner_text_blocks", "num_layers"),
    modulations=("time_mod_proj",),
    conditions=("time_embed",),
    tails=("text_fusion.*.*.ff.down", "transformer_blocks.*.ff.down"),
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
    constants=constants,
    targets={
        "attention": ATTENTION,
        "all-linear": ATTENTION + FEED,
        "authors": (*ATTENTION, "ff.up", "ff.down", *OUTER),
    },
    text_targets={},
    layers={},
    model_spec=lambda _: ("Krea-2", "krea2"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="in-turn", off_at=0.0),
    arch=ARCH,
    padded_values=frozenset({"context", "text_mask"}),
    equal_text_lengths=True,
    distilled=rectified.distilled,
)
