"""Half precision by casting once, where a model begins, in place of autocast at each of its operations.

A model whose weights are in bf16 then computes in bf16 throughout, as stock pipelines run it; what its norms,
its embeddings of time and its rotations compute in fp32, they cast for themselves. Autocast would have each
norm give fp32, which every layer behind it casts and keeps for itself.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from limner.nn.arch import ArchSpec

AUTOCAST_LAYERS = (nn.Linear, _ConvNd)
"""Layers that autocast has multiply in half precision."""

EXACT = frozenset({"img_ids", "txt_ids", "position_ids", "time_ids", "hidden_states"})
"""Arguments that are not cast: places and sizes, of which models make angles and waves in fp32, and states,
which the first layer casts. FLUX.2 gives its times their precision, and in bf16 those are up to 2 of 1000
steps off, which turns the gradients of a tiny model by 14 degrees."""


def cast_once(model: nn.Module, arch: ArchSpec, dtype: torch.dtype) -> ExitStack:
    """Cast what a model is given, and what its layers outside the blocks read, to ``dtype``, that of both.

    Times, one number per sample, and the arguments in ``EXACT`` are cast where a layer reads what was made
    of them.

    Returns:
        What undoes it when it is closed.
    """
    stack = ExitStack()
    stack.callback(model.register_forward_pre_hook(partial(_given, dtype), with_kwargs=True).remove)
    block_prefixes = tuple(f"{block}." for block in arch.blocks_of(model))
    for name, layer in model.named_modules():
        if isinstance(layer, AUTOCAST_LAYERS) and not name.startswith(block_prefixes):
            stack.callback(layer.register_forward_pre_hook(partial(_read, dtype)).remove)
    return stack


def _read(dtype: torch.dtype, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].to(dtype), *args[1:]


def _given(dtype: torch.dtype, _: nn.Module, args: Any, kwargs: Any) -> Any:
    return _low(args, dtype), _low(kwargs, dtype)


def _low(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_low(item, dtype) for item in value)
    if isinstance(value, dict):
        return {name: item if name in EXACT else _low(item, dtype) for name, item in value.items()}
    states = isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1
    return value.to(dtype) if states else value
