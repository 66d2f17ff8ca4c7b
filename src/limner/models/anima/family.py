"""Anima (CircleStone Labs and Comfy Org 2026): NVIDIA's Cosmos-Predict2, of 2 billion weights, for drawings.

Weights: circlestone-labs/Anima-Base-v1.0-Diffusers (CircleStone Labs Non-Commercial License).
Oddities: diffusers has it as modular blocks (``pipeline``). A caption is read twice: a small conditioner that
was trained with the denoiser makes of the last states of Qwen3 0.6B and of T5's tokens (no T5 is there) what
the denoiser reads: 512 places, zeros behind the caption, which attention sees, as there is no mask. The
denoiser reads video, here of one frame, and beside the latent a mask of padding, zeros. The autoencoder is
Qwen-Image's. Captions are booru tags, plain language, or both.
Objective: sd-scripts, ``anima_train_network.py``: the velocity; times are logit-normal and shifted as the
base's own sampler does, by a fixed number. The preset draws them without a shift, as sd-scripts does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import rectified
from limner.models.anima.facts import FACTS
from limner.models.anima.padding import resize_by_torch
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.latents import draw_latent, draw_noise
from limner.models.qwen_image.family import encode_image
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec


@unit("tokens", "token_mask", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """One caption -> (1, L) token ids of Qwen3, at most ``text_length``, and which count.

    An empty caption has no token, and becomes one that does not count.
    """
    tokens = tokenizer(list(caption), max_length=text_length, truncation=True, return_tensors="pt").input_ids
    if tokens.shape[1] == 0:
        return torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool)
    return tokens.long(), torch.ones_like(tokens, dtype=torch.bool)


@unit("t5_tokens", uses=("t5_tokenizer",))
def tokenize_t5(t5_tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """One caption -> (1, M) token ids of T5, at most ``text_length``."""
    cut = {"max_length": text_length, "truncation": True, "return_tensors": "pt"}
    return t5_tokenizer(list(caption), **cut).input_ids


@unit("states", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, token_mask: Tensor) -> Tensor:
    """(1, L) twice -> (1, L, 1024), zeros for a token that does not count."""
    whole = text.seen(torch.ones_like(token_mask))
    states = text_encoder(input_ids=tokens, attention_mask=whole, use_cache=False).last_hidden_state
    return states * token_mask[..., None]


@unit("context", uses=("text_conditioner",))
def condition(text_conditioner: Any, states: Tensor, t5_tokens: Tensor) -> Tensor:
    """(1, L, 1024) and (1, M) -> (1, 512, 1024), zeros behind the caption.

    Nothing is masked: states of an empty caption are zeros, of which attention, without biases, makes zeros.
    """
    return text_conditioner(source_hidden_states=states, target_input_ids=t5_tokens)


@unit("pred", uses=("transformer",))
def denoise(transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    noisy = rectified.noisy(latent, noise, time)
    resize_by_torch()
    pred = transformer(
        hidden_states=noisy[:, :, None],
        timestep=time,
        encoder_hidden_states=context,
        padding_mask=noisy.new_zeros(1, 1, *noisy.shape[-2:]),
        return_dict=False,
    )[0]
    return pred[:, :, 0]


def pipeline_class() -> Any:
    """The stock pipeline, filled and called as others are."""
    from limner.models.anima.pipeline import AnimaPipeline  # with diffusers, which takes half a second

    return AnimaPipeline


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with the guidance of its own blocks."""
    return {
        "negative_prompt": "",
        "guidance_scale": max(1.0, params.strength(source, 4.0)),  # below 1 it would guide, too
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's name of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"]}


ATTENTION = tuple(f"attn{n}.{name}" for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0"))
FEED = ("ff.net.0.proj", "ff.net.2")

ARCH = ArchSpec(
    blocks=("transformer_blocks.*",),
    depths=("num_layers",),
    tails=("transformer_blocks.*.ff.net.2",),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, tokenize_t5, encode_text, condition, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context",),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"},
    constants=rectified.constants,
    targets={"attention": ATTENTION, "all-linear": ATTENTION + FEED},
    text_targets={},
    layers={},
    model_spec=lambda _: ("anima-unknown", "anima"),
    multiple=16,
    pipeline_class=pipeline_class,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="in-turn"),
    arch=ARCH,
    distilled=rectified.distilled,
    padded_values=frozenset({"context"}),
)
