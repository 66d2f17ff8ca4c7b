"""Z-Image (Tongyi-MAI 2025, arXiv:2511.22699): base and Turbo.

A rectified-flow transformer of 6 billion weights in one stream: image and text tokens pass through the same
layers. Weights: Tongyi-MAI/Z-Image and Tongyi-MAI/Z-Image-Turbo (Apache-2.0; Turbo is distilled to 8 steps,
which training wears off: train on the base).
Oddities: its time runs from noise to image and its velocity points there, so both are turned round here; text
is the state before the last layer of Qwen3, at its true length. Objective: diffusers,
``train_dreambooth_lora_z_image.py``; times are logit-normal and shifted as the sampler's config says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import rectified
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.source import Source
from limner.models.z_image.facts import FACTS
from limner.nn import text
from limner.nn.arch import ArchSpec


@unit("tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """One caption -> (1, L) token ids of the chat around it, at most ``text_length``."""
    (chat,) = text.chats(tokenizer, caption, thinking=True)
    return tokenizer([chat], max_length=text_length, truncation=True, return_tensors="pt").input_ids


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(1, L) -> (1, L, 2560), the states before the last layer, and (1, L) True."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    options = {"attention_mask": text.seen(mask), "output_hidden_states": True, "use_cache": False}
    return text_encoder(input_ids=tokens, **options).hidden_states[-2], mask


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, text_mask: Tensor
) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    noisy = rectified.noisy(latent, noise, time)
    pred = transformer(list(noisy[:, :, None]), 1 - time, cut(context, text_mask), return_dict=False)[0]
    return -torch.stack(list(pred))[:, :, 0]


def cut(context: Tensor, mask: Tensor) -> list[Tensor]:
    """(B, L, D) -> B texts (L_i, D) of their true lengths."""
    return [row[:length] for row, length in zip(context, mask.sum(1).tolist(), strict=True)]


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: guidance of 5, or none for Turbo, which is told by its name alone."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, 0.0 if "turbo" in source.name.lower() else 5.0),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, list[Tensor]]:
    """The stock pipeline's name of what it reads of a prompt."""
    return {"prompt_embeds": cut(texts["context"], texts["text_mask"])}


ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
FEED = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")

ARCH = ArchSpec(
    blocks=("noise_refiner.*", "context_refiner.*", "layers.*"),
    depths=("n_refiner_layers", "n_refiner_layers", "n_layers"),
    modulations=("noise_refiner.*.adaLN_modulation.0", "layers.*.adaLN_modulation.0"),
    conditions=("t_embedder",),
    # no tails: a norm stands behind the last linear layer of each block, and its gradient reads its input
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
    targets={"attention": ATTENTION, "all-linear": ATTENTION + FEED},
    text_targets={},
    layers={},
    model_spec=lambda _: ("Z-Image", "zimage"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="positive-first", off_at=0.0),
    arch=ARCH,
    padded_values=frozenset({"context", "text_mask"}),
    distilled=rectified.distilled,
)
