"""Chroma (Lodestone Rock 2025): FLUX.1 schnell, pruned to 8.9 billion weights and trained on, undistilled.

Weights: lodestones/Chroma1-HD (1024 pixels), lodestones/Chroma1-Base (512 pixels); both Apache-2.0.
Oddities: one small network (``distilled_guidance_layer``) computes all modulations from the time, and nothing
of the text; T5 alone reads captions, padding masked; what the denoiser reads of them is all tokens and one of
padding. The stock pipeline gives attention that mask as numbers 1 and 0, which torch *adds* to the scores
(diffusers, issue 12116): padding is seen, at 1/e of the weight. Here likewise, so that what is trained is
what the pipeline shows. diffusers' own gradient checkpointing forgets the mask in its single blocks; it is
not used here. Objective: the pipeline's step on the velocity, as no example of diffusers trains it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.chroma.facts import FACTS
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.flux.family import FAMILY as FLUX
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec


@unit("tokens", "token_mask", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids, and what of them is no padding."""
    return text.padded_and_mask(tokenizer, caption, text_length)


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) twice -> (B, L, 4096), and (B, L) of its precision: 1 for the tokens and one more, 0 behind."""
    seen = None if token_mask.is_meta else token_mask  # there it cannot be looked into
    context = text_encoder(tokens, attention_mask=seen).last_hidden_state
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return context, (positions <= token_mask.sum(1, keepdim=True)).to(context.dtype)


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, text_mask: Tensor
) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    noisy = latents.patchify(rectified.noisy(latent, noise, time))
    height, width = noisy.shape[-2:]
    pred = transformer(
        hidden_states=latents.tokens(noisy),
        encoder_hidden_states=context,
        timestep=time,
        img_ids=pad(latents.grid(height, width, noisy.device), (1, 0)),
        txt_ids=torch.zeros(context.shape[1], 3, device=noisy.device),
        attention_mask=pad(text_mask, (0, height * width), value=1.0),
        return_dict=False,
    )[0]
    return latents.unpatchify(latents.untokens(pred, height))


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with the guidance of its documentation's example."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, 3.0),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"], "prompt_attention_mask": texts["text_mask"]}


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
    constants=rectified.constants,
    targets=FLUX.targets,
    text_targets={},
    layers={},
    model_spec=lambda _: ("chroma", "chroma"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    unused_parts=("image_encoder", "feature_extractor"),
    guidance=Guidance(passes="in-turn"),
    arch=ArchSpec(
        blocks=FLUX.arch.blocks,
        depths=FLUX.arch.depths,
        conditions=("time_text_embed", "distilled_guidance_layer"),
        tails=FLUX.arch.tails,
    ),
)
