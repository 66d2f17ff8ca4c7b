"""What families that read captions with CLIP share, and those with T5."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from limner.graph.unit import Layers, unit
from limner.nn import text

CLIP_LENGTH = 77
"""Tokens that CLIP reads (Radford et al. 2021, arXiv:2103.00020)."""
CLIP_LINEARS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Endings of every linear layer in a block of CLIP's text model."""
T5_LINEARS = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o")
"""Endings of the linear layers of T5 that a LoRA trains: its attention."""


@unit("clip_tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str]) -> Tensor:
    """B captions -> (B, 77) token ids, truncated and padded as the pipeline does."""
    return text.padded(tokenizer, caption, CLIP_LENGTH)


@unit("clip_tokens_2", uses=("tokenizer_2",))
def tokenize_2(tokenizer_2: Any, caption: Sequence[str]) -> Tensor:
    """B captions -> (B, 77) token ids of the second CLIP, which pads with another token."""
    return text.padded(tokenizer_2, caption, CLIP_LENGTH)


@unit(
    "context_2",
    "pooled_2",
    uses=("text_encoder_2",),
    layers=Layers(below=text.clip_below, above=text.clip_both_above),
)
def encode_both(text_encoder_2: nn.Module, clip_tokens_2: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77) -> (B, 77, D), the state before the last layer, and (B, P), the pooled one, projected."""
    return text.clip_both(text_encoder_2, clip_tokens_2)
