"""Compiles repeated blocks, one program for each sort of block, whatever the number of tokens."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from limner.nn.checkpointing import Run

BACKEND = "inductor"
"""What turns a graph into kernels."""


def compiled(run: Run) -> Run:
    """A block that is compiled when it first runs. Other kernels round otherwise: its numbers are close."""
    program = torch.compile(run, backend=BACKEND)

    def marked(*args: Any, **named: Any) -> Any:
        for each in (*args, *named.values()):
            mark(each)
        return program(*args, **named)

    return marked


def mark(value: Any) -> None:
    """Say which sizes of an argument differ from bucket to bucket, so that one program serves all.

    Tokens of (B, L, D), sides of (B, C, H, W), and tokens of tables of angles, (L, D), which come in pairs.
    """
    if isinstance(value, tuple | list):
        for each in value:
            if isinstance(each, Tensor) and each.ndim == 2:
                _vary(each, (0,))
    elif isinstance(value, Tensor):
        _vary(value, {3: (1,), 4: (2, 3)}.get(value.ndim, ()))


def _vary(tensor: Tensor, places: Iterable[int]) -> None:
    for place in places:
        torch._dynamo.maybe_mark_dynamic(tensor, place)
