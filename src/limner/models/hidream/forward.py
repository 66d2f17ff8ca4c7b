"""What of HiDream-I1's forward pass diffusers computes from numbers, or without a gradient.

In each block every token is sent to two of four experts. diffusers has two ways for that: one for training,
which learns through them, and one without a gradient, which a model in evaluation takes, and its training
example too (``force_inference_output``): the experts are then constants of the loss. Both ask the numbers
which expert gets how many tokens, and the image's size of a tensor. Here the first way is computed, whatever
mode the model is in, and where there are no numbers each expert gets as many tokens as the others. The
results are diffusers' own to the bit (tests/models/hidream).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from limner.models import latents


def prepare(model: Any) -> None:
    """Have a ``HiDreamImageTransformer2DModel`` computed so, from here on: blocks run again after a pass."""
    if "patchify" in vars(model):
        return
    model.patchify = partial(patchify, model)
    for block in (*model.double_stream_blocks, *model.single_stream_blocks):
        feed = block.block.ff_i
        if hasattr(feed, "experts"):
            feed.forward = partial(feed_forward, feed)


def feed_forward(feed: Any, x: Tensor) -> Tensor:
    """(B, L, D) -> (B, L, D): the shared expert, and of each token those that its gate chose.

    The tokens of an expert are computed together. Rows are sorted by a permutation, whose gradient is one:
    no order of sums is left to chance.

    Args:
        feed: ``MOEFeedForwardSwiGLU``.
        x: Tokens.
    """
    indices, share, _ = feed.gate(x)  # (B L, k) each
    experts, flat = feed.experts, indices.flatten()
    order = flat.argsort(stable=True)
    rows = x.reshape(-1, x.shape[-1]).repeat_interleave(indices.shape[-1], dim=0)[order]
    outputs = [
        expert(part) for expert, part in zip(experts, rows.split(_counts(flat, len(experts))), strict=True)
    ]
    output = torch.cat(outputs)[order.argsort()].view(*share.shape, -1)
    return (output * share.unsqueeze(-1)).sum(1).view_as(x).to(x.dtype) + feed.shared_experts(x)


def _counts(indices: Tensor, experts: int) -> list[int]:
    """How many of the indices are each expert's; on meta, where nobody chose, as many as may be."""
    if not indices.is_meta:
        return torch.bincount(indices, minlength=experts).tolist()
    share, rest = divmod(len(indices), experts)
    return [share + (number < rest) for number in range(experts)]


def patchify(model: Any, latent: Tensor) -> tuple[Tensor, Tensor | None, list[tuple[int, int]], Tensor]:
    """(B, C, h, w) -> tokens, which of them count, rows and columns of each image, and where tokens stand.

    Of an image that is no square the tokens are padded to as many as the largest square has: zeros, whose
    keys are zeros and which attention sees all the same, as they were in the base's training.

    Args:
        model: ``HiDreamImageTransformer2DModel``.
        latent: With noise.
    """
    side = model.config.patch_size
    batch, channels, height, width = latent.shape
    rows, columns = height // side, width // side
    tokens = latent.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    tokens = tokens.reshape(batch, rows * columns, side * side * channels)
    positions = pad(latents.grid(rows, columns, latent.device), (1, 0)).expand(batch, -1, -1)
    mask, spare = None, model.max_seq - rows * columns
    if height != width and spare > 0:
        mask = pad(latent.new_ones(batch, rows * columns), (0, spare))
        tokens, positions = pad(tokens, (0, 0, 0, spare)), pad(positions, (0, 0, 0, spare))
    return tokens, mask, [(rows, columns)] * batch, positions
