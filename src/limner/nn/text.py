"""Text encoders of transformers, cut between two layers: the part below, and the part above."""

from typing import Any

import torch
from torch import Tensor


def clip_ends(tokens: Tensor, model: Any) -> Tensor:
    """Index of the end token whose state CLIP pools, (B,): transformers' own rule, old and new configs."""
    end = model.config.eos_token_id
    if end == 2:  # configs written before transformers 4.30 say 2 and mean the largest id
        return tokens.to(torch.int).argmax(-1)
    return (tokens == end).int().argmax(-1)


def clip_below(model: Any, tokens: Tensor, *, until: int) -> Tensor:
    """(B, 77) tokens -> (B, 77, D): the state that layer ``until`` of a CLIPTextModel reads."""
    hidden = model.embeddings(input_ids=tokens)
    return _clip_layers(model, hidden, 0, until)


def clip_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> Tensor:
    """(B, 77, D) state that layer ``since`` reads -> (B, D) pooled output."""
    hidden = _clip_layers(model, hidden, since, len(model.encoder.layers))
    hidden = model.final_layer_norm(hidden)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, clip_ends(tokens, model)]


def _clip_layers(model: Any, hidden: Tensor, start: int, stop: int) -> Tensor:
    for layer in model.encoder.layers[start:stop]:
        hidden = layer(hidden, None, is_causal=True)
    return hidden


def t5_below(model: Any, tokens: Tensor, *, until: int) -> Tensor:
    """(B, L) tokens -> (B, L, D): the state that block ``until`` of a T5EncoderModel reads."""
    stack = model.encoder
    return _t5_blocks(stack, stack.dropout(stack.embed_tokens(tokens)), 0, until)


def t5_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> Tensor:
    """(B, L, D) state that block ``since`` reads -> (B, L, D) last hidden state."""
    del tokens
    stack = model.encoder
    hidden = _t5_blocks(stack, hidden, since, len(stack.block))
    return stack.dropout(stack.final_layer_norm(hidden))


def _t5_blocks(stack: Any, hidden: Tensor, start: int, stop: int) -> Tensor:
    length = hidden.shape[1]
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    for block in stack.block[start:stop]:
        hidden = block(hidden, None, bias)[0]
    return hidden
