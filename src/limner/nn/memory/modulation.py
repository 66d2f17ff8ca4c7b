"""Modulations computed once per step, their weights kept off the device.

AdaLN and its kin turn one vector per image into shifts, scales and gates: a quarter of FLUX.1's weights and
a third of Qwen-Image's act on vectors that are known before the first block. The first modulation of a
forward pass computes the frozen part of all of them, in the order in which they are due, through one buffer;
adapters on them are computed in their places as ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, BrokenGraph
from limner.nn.memory.checkpointing import Run
from limner.nn.memory.host_buffer import Host, HostBuffer


@dataclass(frozen=True)
class Table:
    """What the modulations of one forward pass give."""

    read: Tensor
    """The vectors that they read, (B, D)."""
    outputs: Sequence[tuple[Tensor, Callable[[], None]]]
    """Of each layer its output, and what to call before it is read."""


class Hoist:
    """The modulations of a model. One pass at a time; blocks that are computed again find the pass they had.

    Args:
        layers: The frozen linear layers by name, in running order.
        conditions: The embedders that begin a pass.
        host: Where the weights go.
        device: Where they act.

    Raises:
        BadRecipe: An embedder or a modulation itself is trained.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        conditions: Mapping[str, nn.Module],
        host: Host,
        device: torch.device,
    ) -> None:
        """See the class."""
        for name, module in (*conditions.items(), *layers.items()):
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise BadRecipe(
                    f"{name} is trained, so what modulations make of it changes within a step and cannot be "
                    "computed ahead. Leave it out of lora.targets, or set hoist off."
                )
        self.layers = list(layers.values())
        self.buffers = [HostBuffer(layer, host) for layer in self.layers]
        self.runs: list[Run] = [layer.forward for layer in self.layers]
        self.names = tuple(layers)
        room = max(buffer.bytes for buffer in self.buffers)
        self.room = torch.empty(room, dtype=torch.uint8, device=device)
        self.views = [buffer.over(self.room) for buffer in self.buffers]
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.table: Table | None = None
        self.is_checked = False
        self.hooks = [module.register_forward_hook(self._begin) for module in conditions.values()]

    def _begin(self, *_: Any) -> None:
        self.table = None

    def now(self) -> Table | None:
        """The pass that is under way."""
        return self.table

    def put(self, value: Table | None) -> None:
        """Go back to a pass."""
        self.table = value

    def give(self, number: int, x: Tensor) -> Tensor:
        """What a layer gives for the vectors of this pass.

        Raises:
            BadRecipe: Something that the embedders read is trained.
            BrokenGraph: The layer reads other vectors than the first one did, or than the first of them.
        """
        table = self.table
        if table is None:
            table = self.table = self._fill(x)
        output, ready = table.outputs[number]
        first = table.read[: len(x)]  # Qwen-Image-Edit has a second time, that of control images
        is_same = x.shape == first.shape and (self.is_checked or torch.equal(x, first))
        if not is_same:
            raise BrokenGraph(
                f"{self.names[number]} reads {tuple(x.shape)} numbers that {self.names[0]} did not read, so "
                "it cannot be computed ahead. Set hoist off."
            )
        self.is_checked = self.is_checked or number == len(self.names) - 1
        ready()
        return output[: len(x)]

    @torch.no_grad()
    def _fill(self, x: Tensor) -> Table:
        if x.requires_grad:
            raise BadRecipe(
                "What the modulations read is trained (a text encoder, or an embedder), so they need "
                "their weights for its gradient and cannot be computed ahead. Set hoist off, or train the "
                "denoiser only."
            )
        if self.stream is None:
            return Table(x, [(self._compute(number, x), _nothing) for number in range(len(self.runs))])
        current = torch.cuda.current_stream(x.device)
        self.stream.wait_stream(current)
        x.record_stream(self.stream)
        outputs = []
        with torch.cuda.stream(self.stream):
            for number in range(len(self.runs)):
                out = self._compute(number, x)
                out.record_stream(current)
                outputs.append((out, self._waiting(self.stream.record_event())))
        return Table(x, outputs)

    def _compute(self, number: int, x: Tensor) -> Tensor:
        buffer = self.buffers[number]
        self.room[: buffer.bytes].copy_(
            buffer.rest, non_blocking=True
        )  # in one stream: after the layer before it
        buffer.put(self.views[number])
        try:
            return self.runs[number](x)
        finally:  # out of memory, too: a layer may not be left with what is another's by then
            buffer.leave()

    def _waiting(self, event: Any) -> Callable[[], None]:
        return lambda: torch.cuda.current_stream(self.room.device).wait_event(event)

    def close(self) -> None:
        """Leave the weights on the host."""
        for hook in self.hooks:
            hook.remove()
        if self.stream is not None:
            self.stream.synchronize()
        self.table, self.views = None, []


def _nothing() -> None:
    """On the CPU an output is there when it is returned."""
