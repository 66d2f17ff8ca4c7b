"""Text encoders of transformers, cut between two layers: the part below, and the part above."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor


def padded(tokenizer: Any, caption: Sequence[str], length: int) -> Tensor:
    """B captions -> (B, length) token ids, cut and padded as the stock pipelines do."""
    return padded_and_mask(tokenizer, caption, length)[0]


def padded_and_mask(
    tokenizer: Any, caption: Sequence[str], length: int, **options: bool
) -> tuple[Tensor, Tensor]:
    """B captions -> (B, length) token ids, and 1 for those that are no padding."""
    full = {"padding": "max_length", "max_length": length, "truncation": True}
    out = tokenizer(list(caption), **full, **options, return_tensors="pt")
    return out.input_ids, out.attention_mask


def chats(tokenizer: Any, caption: Sequence[str], *, thinking: bool) -> list[str]:
    """Each caption as what a user says to a language model, in the chat form of its own tokenizer."""
    ask: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    return [tokenizer.apply_chat_template([{"role": "user", "content": text}], **ask) for text in caption]


def seen(mask: Tensor) -> Any:
    """A language model's attention mask (B, L); on the meta device, where it cannot be looked into, none."""
    return {"full_attention": None} if mask.is_meta else mask


def layer_outputs(model: Any, tokens: Tensor, numbers: Sequence[int]) -> list[Tensor]:
    """What some layers of a language model give of (B, L) tokens without padding, each (B, L, D).

    Of the last one before the norm behind it, which the model's own list of states leaves out.
    """
    outputs: dict[int, Tensor] = {}

    def keep(number: int, _: Any, __: Any, output: Any) -> None:
        outputs[number] = output[0] if isinstance(output, tuple) else output

    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(3, 1, -1)  # time, height, width
    with ExitStack() as stack:
        for number in numbers:
            stack.callback(model.layers[number].register_forward_hook(partial(keep, number)).remove)
        model(input_ids=tokens, position_ids=positions, use_cache=False)
    return [outputs[number] for number in numbers]


def clip_ends(tokens: Tensor, model: Any) -> Tensor:
    """Index of the end token whose state CLIP pools, (B,): transformers' own rule, old and new configs."""
    end = model.config.eos_token_id
    if end == 2:  # configs written before transformers 4.30 say 2 and mean the largest id
        return tokens.to(torch.int).argmax(-1)
    return (tokens == end).int().argmax(-1)


def clip_below(model: Any, tokens: Tensor, *, until: int) -> Tensor:
    """(B, 77) tokens -> (B, 77, D): the state that layer ``until`` of a CLIP text model reads."""
    body = _clip_body(model)
    return _clip_layers(body, body.embeddings(input_ids=tokens), 0, until)


def clip_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> Tensor:
    """(B, 77, D) state that layer ``since`` reads -> (B, D) pooled output."""
    hidden = clip_last_above(model, hidden, tokens, since=since)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, clip_ends(tokens, _clip_body(model))]


def clip_last_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> Tensor:
    """(B, 77, D) state that layer ``since`` reads -> (B, 77, D) last state, normalised."""
    del tokens
    body = _clip_body(model)
    hidden = _clip_layers(body, hidden, since, len(body.encoder.layers))
    return body.final_layer_norm(hidden)


def clip_penultimate_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> Tensor:
    """(B, 77, D) state that layer ``since`` reads -> (B, 77, D) state that the last layer would read."""
    del tokens
    body = _clip_body(model)
    return _clip_layers(body, hidden, since, len(body.encoder.layers) - 1)


def clip_both_above(model: Any, hidden: Tensor, tokens: Tensor, *, since: int) -> tuple[Tensor, Tensor]:
    """(B, 77, D) state that layer ``since`` reads -> the one that the last layer reads, and (B, P) projected.

    ``model`` is a CLIPTextModelWithProjection.
    """
    last = len(_clip_body(model).encoder.layers) - 1
    before = clip_penultimate_above(model, hidden, tokens, since=since) if since < last else hidden
    return before, model.text_projection(clip_above(model, before, tokens, since=last))


def clip_both(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77) tokens -> (B, 77, D), what the last layer reads, and (B, P), pooled and projected.

    ``model`` is a CLIPTextModelWithProjection.
    """
    return clip_both_above(model, clip_below(model, tokens, until=0), tokens, since=0)


def _clip_body(model: Any) -> Any:
    """The text model itself: transformers wraps it in another one that projects what it pools."""
    return dict(model.named_children()).get("text_model", model)


def _clip_layers(body: Any, hidden: Tensor, start: int, stop: int) -> Tensor:
    for layer in body.encoder.layers[start:stop]:
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
