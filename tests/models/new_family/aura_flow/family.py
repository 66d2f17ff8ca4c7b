"""AuraFlow: a rectified-flow transformer that reads one T5, whose padding is zeroed and read."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import rectified
from limner.models.family import Family, SamplingParams
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.source import Source
from limner.nn.arch import ArchSpec

from .facts import FACTS


@unit("tokens", "token_mask", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids, and what of them is no padding."""
    full = {"padding": "max_length", "max_length": text_length, "truncation": True}
    tokens = tokenizer(list(caption), **full, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


@unit("context", uses=("text_encoder",))
def encode_text(text_encoder: nn.Module, tokens: Tensor, token_mask: Tensor) -> Tensor:
    """(B, L) twice -> (B, L, D), zero where there is padding."""
    mask = None if token_mask.is_meta else token_mask  # a planner's tensors cannot be looked into
    states = text_encoder(input_ids=tokens, attention_mask=mask)[0]
    return states * token_mask[..., None]


@unit("pred", uses=("transformer",))
def denoise(transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor) -> Tensor:
    """-> (B, 4, h, w), the velocity."""
    noisy = rectified.noisy(latent, noise, time)
    return transformer(noisy, encoder_hidden_states=context, timestep=time, return_dict=False)[0]


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called."""
    return {"negative_prompt": "", "guidance_scale": params.strength(source, 3.5), **params.call_kwargs}


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    context = texts["context"]
    return {"prompt_embeds": context, "prompt_attention_mask": context.new_ones(context.shape[:2])}


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, encode_text, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context",),
    supported_options=rectified.SUPPORTED_OPTIONS,
    constants=rectified.constants,
    targets={"attention": ATTENTION, "all-linear": (*ATTENTION, "ff.out_projection")},
    text_targets={},
    layers={},
    model_spec=lambda _: ("AuraFlow", "aura_flow"),
    multiple=16,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    arch=ArchSpec(
        blocks=("joint_transformer_blocks.*", "single_transformer_blocks.*"),
        depths=("num_mmdit_layers", "num_single_dit_layers"),
    ),
)
