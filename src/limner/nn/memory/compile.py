"""Compiles repeated blocks, one program for each sort of block, whatever the number of tokens."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadRecipe, first_line
from limner.nn.memory.checkpointing import Run

BACKEND = "inductor"
"""What turns a graph into kernels."""


def compiled(run: Run) -> Run:
    """A block that is compiled when it first runs. Other kernels round otherwise: its numbers are close.

    Where that fails it says so (``BadRecipe``), with how to go on without.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # takes seconds to load

    program = torch.compile(run, backend=BACKEND)

    def marked(*args: Any, **kwargs: Any) -> Any:
        for tensor in (*args, *kwargs.values()):
            mark(tensor)
        try:
            return program(*args, **kwargs)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, torch.OutOfMemoryError):
                raise error.inner_exception from None
            cause = first_line(error.inner_exception)
            raise BadRecipe(
                f"Blocks cannot be compiled on this machine: {cause}. Run again with TORCH_COMPILE_DISABLE=1 "
                "in the environment: the plan then goes without; or install Triton and a C compiler."
            ) from error

    return marked


def mark(value: Any) -> None:
    """Say which sizes of an argument differ from bucket to bucket, so that one program serves all.

    Tokens of (B, L, D), sides of (B, C, H, W), and tokens of tables of angles, (L, D), which come in pairs.
    """
    if isinstance(value, tuple | list):
        for tensor in value:
            if isinstance(tensor, Tensor) and tensor.ndim == 2:
                _vary(tensor, (0,))
    elif isinstance(value, Tensor):
        _vary(value, {3: (1,), 4: (2, 3)}.get(value.ndim, ()))


def _vary(tensor: Tensor, dims: Iterable[int]) -> None:
    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
