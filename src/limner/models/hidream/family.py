"""HiDream-I1 (Cai et al. 2025, arXiv:2505.22705): a transformer of 17 billion weights, a mixture of experts.

Weights: HiDream-ai/HiDream-I1-Full, and -Dev and -Fast, distilled to 28 and 16 steps (all MIT).
Oddities: four text encoders. Of two CLIPs with 248 places the pooled states are read; T5's states and those
of Llama 3.1 8B stand behind the image, of Llama another layer in each block: 34 MB of a caption in the cache.
Text is padded, never masked in the denoiser. Llama is not in the base's repository. Each token goes to two of
four experts (``forward``). What is no square is padded. The pipeline paints a million pixels, whatever it is
asked (``pipeline``). The denoiser says the velocity with the other sign.
Objective: diffusers, ``train_dreambooth_lora_hidream.py``, with a gradient through the experts, which that
example leaves out. As there, no loss asks that experts be used alike.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import rectified
from limner.models.family import Family, Guidance, SamplingParams
from limner.models.hidream.facts import FACTS
from limner.models.hidream.forward import prepare
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec

TOKENS = 128
"""Of every text encoder, unless the base says otherwise."""
CLIP_TOKENS = 218
"""Most that the pipeline gives to a CLIP."""


@unit("clip_tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """B captions -> (B, L) token ids, L at most 218."""
    return text.padded(tokenizer, caption, min(text_length, CLIP_TOKENS))


@unit("clip_tokens_2", uses=("tokenizer_2",))
def tokenize_2(tokenizer_2: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """B captions -> (B, L) token ids of the second CLIP, L at most 218."""
    return text.padded(tokenizer_2, caption, min(text_length, CLIP_TOKENS))


@unit("t5_tokens", "t5_mask", uses=("tokenizer_3",))
def tokenize_3(tokenizer_3: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids of T5, and what of them is no padding."""
    return text.padded_and_mask(tokenizer_3, caption, text_length)


@unit("llama_tokens", "llama_mask", uses=("tokenizer_4",))
def tokenize_4(tokenizer_4: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids of Llama, padded with its end, and what is no padding."""
    if getattr(tokenizer_4, "pad_token", "") is None:
        tokenizer_4.pad_token = tokenizer_4.eos_token
    return text.padded_and_mask(tokenizer_4, caption, text_length)


@unit("pooled", uses=("text_encoder",))
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> Tensor:
    """(B, L) -> (B, 768), pooled and projected."""
    return text.clip_both(text_encoder, clip_tokens)[1]


@unit("pooled_2", uses=("text_encoder_2",))
def encode_clip_2(text_encoder_2: nn.Module, clip_tokens_2: Tensor) -> Tensor:
    """(B, L) -> (B, 1280), pooled and projected."""
    return text.clip_both(text_encoder_2, clip_tokens_2)[1]


@unit("context", uses=("text_encoder_3",))
def encode_t5(text_encoder_3: nn.Module, t5_tokens: Tensor, t5_mask: Tensor) -> Tensor:
    """(B, L) twice -> (B, L, 4096)."""
    mask = None if t5_mask.is_meta else t5_mask  # there it cannot be looked into
    return text_encoder_3(t5_tokens, attention_mask=mask).last_hidden_state


@unit("states", uses=("text_encoder_4",))
def encode_llama(text_encoder_4: Any, llama_tokens: Tensor, llama_mask: Tensor) -> Tensor:
    """(B, L) twice -> (B, 32, L, 4096): what each layer gives, the last one behind its norm."""
    if llama_mask.is_meta:  # it cannot be looked into: who sees whom, of any number
        llama_mask = torch.zeros(1, 1, *2 * llama_mask.shape[1:], dtype=text_encoder_4.dtype, device="meta")
    outputs = text_encoder_4.model(
        llama_tokens, attention_mask=llama_mask, output_hidden_states=True, use_cache=False
    )
    return torch.stack(outputs.hidden_states[1:], dim=1)


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    pooled: Tensor,
    pooled_2: Tensor,
    context: Tensor,
    states: Tensor,
) -> Tensor:
    """-> (B, 16, h, w), the velocity."""
    prepare(transformer)
    return -transformer(
        hidden_states=rectified.noisy(latent, noise, time),
        timesteps=time * 1000,
        encoder_hidden_states_t5=context,
        encoder_hidden_states_llama3=states.transpose(0, 1),
        pooled_embeds=torch.cat([pooled, pooled_2], dim=-1),
        return_dict=False,
    )[0]


def pipeline_class() -> Any:
    """The stock pipeline, which paints the size that it is asked for."""
    from limner.models.hidream.pipeline import HiDreamPipeline  # with diffusers, which takes half a second

    return HiDreamPipeline


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called, with its authors' guidance: none where few steps sample."""
    few_steps = source.index["scheduler"][1] == "FlowMatchLCMScheduler"
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, 0.0 if few_steps else 5.0),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source, TOKENS),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {
        "prompt_embeds_t5": texts["context"],
        "prompt_embeds_llama3": texts["states"].transpose(0, 1),
        "pooled_prompt_embeds": torch.cat([texts["pooled"], texts["pooled_2"]], dim=-1),
    }


LINEARS = ("w1", "w2", "w3")
ATTENTION = tuple(
    f"attn1.{name}{stream}" for stream in ("", "_t") for name in ("to_q", "to_k", "to_v", "to_out")
)
FEED = tuple(f"{part}.{name}" for part in ("ff_t", "shared_experts") for name in LINEARS)
EXPERTS = tuple(f"ff_i.experts.*.{name}" for name in LINEARS)
KINDS = ("double_stream_blocks.*", "single_stream_blocks.*")

ARCH = ArchSpec(
    blocks=KINDS,
    depths=("num_layers", "num_single_layers"),
    per_block=("llama_layers",),
    modulations=(*(f"{kind}.block.adaLN_modulation.1" for kind in KINDS), "final_layer.adaLN_modulation.1"),
    conditions=("t_embedder", "p_embedder"),
    tails=(f"{KINDS[0]}.block.ff_t.w2", *(f"{kind}.block.ff_i.shared_experts.w2" for kind in KINDS)),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, tokenize_2, tokenize_3, tokenize_4)
    + (encode_clip, encode_clip_2, encode_t5, encode_llama, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("pooled", "pooled_2", "context", "states"),
    supported_options=rectified.SUPPORTED_OPTIONS,
    constants=partial(rectified.constants, tokens=TOKENS),
    targets={
        "attention": ATTENTION,
        "all-linear": ATTENTION + FEED,
        "experts": ATTENTION + FEED + EXPERTS,
    },
    text_targets={},
    layers={},
    model_spec=lambda _: ("hidream-i1", "hidream"),
    multiple=16,
    pipeline_class=pipeline_class,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(passes="negative-first", batch_axes={"encoder_hidden_states_llama3": 1}),
    arch=ARCH,
)
