"""Layers that are alike, run once: the second of them stands for all that follow.

A text encoder of 36 layers takes a second to trace, and every layer but the first says the same. Here the
others stand by: they take the memory and count the work that the second one did, and give back room of the
shapes that it gave back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from limner.nn.arch import lists
from limner.planning.tracker import Tracker

MIN_LAYERS = 4
"""Lists of fewer layers are run as they are."""


@contextmanager
def once(model: nn.Module, tracker: Tracker | None = None) -> Iterator[None]:
    """While entered, layers that are alike run once each time they are called in a row. Without gradient.

    Args:
        model: On the meta device.
        tracker: What counts memory and work, if anybody does.
    """
    targets: list[nn.Module] = []
    try:
        for layers in lists(model, least=MIN_LAYERS).values():
            record = _LayerRecord(tracker)
            _, second, *rest = layers
            second.forward = record.watching(second.forward)
            for layer in rest:
                layer.forward = record.standing
            targets += [second, *rest]
        yield
    finally:
        for layer in targets:
            del layer.forward


@dataclass
class _LayerRecord:
    """What the second layer of a list did."""

    tracker: Tracker | None
    room: int = 0
    """Most bytes alive while it ran, beyond those before."""
    gemm: float = 0
    w8a8: float = 0
    attention: float = 0
    traffic: float = 0
    kernels: int = 0
    gave: tuple[list[Any], TreeSpec] | None = None
    """Of each value given back: the place among the arguments where it came in, or the value itself."""

    def watching(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward``, with notes taken."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self._segment("layer")
            out = forward(*args, **kwargs)
            if self.tracker:
                now = self.tracker.now
                self.room = now.peak - before
                self.gemm, self.attention, self.traffic = now.gemm, now.attention, now.traffic
                self.w8a8, self.kernels = now.w8a8, now.kernels
            self._segment("")
            inputs, _ = tree_flatten((args, kwargs))
            values, form = tree_flatten(out)
            self.gave = [_origin(value, inputs) for value in values], form
            return out

        return watched

    def standing(self, *args: Any, **kwargs: Any) -> Any:
        """What a layer that stands by does."""
        assert self.gave, "the second layer runs before those that follow it"
        if self.tracker:
            now = self.tracker.now
            passing = torch.empty(self.room, dtype=torch.uint8, device="meta")
            del passing
            now.gemm += self.gemm
            now.w8a8 += self.w8a8
            now.attention += self.attention
            now.traffic += self.traffic
            now.kernels += self.kernels
        inputs, _ = tree_flatten((args, kwargs))
        values, form = self.gave
        return tree_unflatten(
            [inputs[value] if isinstance(value, int) else _room(value) for value in values], form
        )

    def _segment(self, name: str) -> int:
        if self.tracker is None:
            return 0
        self.tracker.segment(name, "forward")
        return self.tracker.alive


@dataclass(frozen=True)
class _Constant:
    """A value that is no tensor, or that a layer gives back as it was."""

    value: Any


def _origin(value: Any, inputs: list[Any]) -> Any:
    """Where a value came in, or what it looks like."""
    if not isinstance(value, Tensor):
        return _Constant(value)
    for number, item in enumerate(inputs):
        if item is value:
            return number
    return value.shape, value.dtype


def _room(value: Any) -> Any:
    if isinstance(value, _Constant):
        return value.value
    shape, dtype = value
    return torch.empty(shape, dtype=dtype, device="meta")
