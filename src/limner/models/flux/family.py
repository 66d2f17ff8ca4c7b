"""FLUX.1 (Black Forest Labs 2024): dev, schnell, and every base of the same architecture.

A rectified-flow transformer with two text encoders: CLIP gives one pooled vector, T5 a sequence. Weights:
black-forest-labs/FLUX.1-dev (guidance-distilled, non-commercial, gated) and FLUX.1-schnell (Apache-2.0,
distilled to 1-4 steps; a LoRA trained on it drifts, so train on dev and use it on both).
Oddities: text is padded, never masked; 16-channel latents are packed 2x2 into tokens of 64 numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.graph.unit import Layers, unit
from limner.models import latents, rectified
from limner.models.clip import CLIP_LINEARS, T5_LINEARS, tokenize
from limner.models.family import Family, Guidance, Objective, SamplingParams
from limner.models.flux.facts import FACTS
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec


@unit("t5_tokens", uses=("tokenizer_2",))
def tokenize_2(tokenizer_2: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """B captions -> (B, text_length) token ids."""
    return text.padded(tokenizer_2, caption, text_length)


@unit("pooled", uses=("text_encoder",), layers=Layers(below=text.clip_below, above=text.clip_above))
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> Tensor:
    """(B, 77) -> (B, D_clip), the state at the end token."""
    return text_encoder(clip_tokens).pooler_output


@unit("context", uses=("text_encoder_2",), layers=Layers(below=text.t5_below, above=text.t5_above))
def encode_t5(text_encoder_2: nn.Module, t5_tokens: Tensor) -> Tensor:
    """(B, L) -> (B, L, D_t5). Padding is encoded like text: FLUX was trained so."""
    return text_encoder_2(t5_tokens).last_hidden_state


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what a FLUX transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    pooled: Tensor,
    context: Tensor,
    *control_latents: Tensor,
    guidance: float | None,
) -> Tensor:
    """-> (B, 16, h, w), the velocity. ``guidance`` None: the model has no such input.

    Tokens of a control image (FLUX.1 Kontext) follow those of the noisy latent.
    """
    noisy = latents.patchify(rectified.noisy(latent, noise, time))
    grids = [noisy, *(latents.patchify(control) for control in control_latents)]
    position_ids = [latents.grid(grid.shape[-2], grid.shape[-1], grid.device) for grid in grids]
    pred = transformer(
        hidden_states=latents.joined([latents.tokens(grid) for grid in grids], dim=1),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=time,
        guidance=None if guidance is None else torch.full_like(time, guidance),
        img_ids=latents.joined(
            [pad(ids, (1, 0), value=float(n)) for n, ids in enumerate(position_ids)], dim=0
        ),
        txt_ids=torch.zeros(context.shape[1], 3, device=latent.device),
        return_dict=False,
    )[0]
    return latents.unpatchify(latents.untokens(latents.first_grid(pred, grids), noisy.shape[-2]))


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    return {
        **rectified.constants(source, objective),
        "text_length": text_length(source),
        "guidance": rectified.guidance(source, objective),
    }


def text_length(source: Source) -> int:
    """Tokens of T5: 512 for dev, 256 for schnell."""
    return rectified.text_length(source, 512 if _guided(source) else 256)


def _guided(source: Source) -> bool:
    """Dev has a guidance input, schnell has none."""
    return bool(source.config("transformer").get("guidance_embeds"))


def model_spec(source: Source) -> tuple[str, str]:
    """Dev or schnell."""
    return ("flux-1-dev" if _guided(source) else "flux-1-schnell"), "flux1"


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called. Without guidance input: true guidance, at twice the time."""
    has_guidance = _guided(source)
    guidance = params.strength(source, 3.5 if has_guidance else 1.0)  # schnell needs none: it is distilled
    return {
        "negative_prompt": None if has_guidance else "",
        "true_cfg_scale": 1.0 if has_guidance else guidance,
        "guidance_scale": guidance,
        **params.call_kwargs,
        "max_sequence_length": text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"], "pooled_prompt_embeds": texts["pooled"]}


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
JOINT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
FEED = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp")
SINGLE_OUT = ("single_transformer_blocks.*.proj_out",)

ARCH = ArchSpec(
    blocks=("transformer_blocks.*", "single_transformer_blocks.*"),
    depths=("num_layers", "num_single_layers"),
    modulations=("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear")
    + ("single_transformer_blocks.*.norm.linear", "norm_out.linear"),
    conditions=("time_text_embed",),
    tails=("transformer_blocks.*.ff.net.2", "transformer_blocks.*.ff_context.net.2")
    + ("single_transformer_blocks.*.proj_out",),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, tokenize_2, encode_clip, encode_t5, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("pooled", "context"),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"} | {"guidance"},
    constants=constants,
    targets={
        "attention": ATTENTION + JOINT,
        "all-linear": ATTENTION + JOINT + FEED + SINGLE_OUT,
        "single-blocks": tuple(
            f"single_transformer_blocks.*.{name}" for name in (*ATTENTION[:3], "proj_mlp", "proj_out")
        ),
    },
    text_targets={
        "text_encoder": CLIP_LINEARS,
        "text_encoder_2": T5_LINEARS,
    },
    layers={"text_encoder": "encoder.layers", "text_encoder_2": "encoder.block"},
    model_spec=model_spec,
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(distilled=_guided),
    arch=ARCH,
    distilled=rectified.distilled,
)
