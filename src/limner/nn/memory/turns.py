"""Models that take turns on a device: one is there while it computes, the others rest on the host.

What a model rests as is what it was, so that going back copies nothing. Blocks of a model may be streamed
besides (``nn.memory.block_swap``), and their slots are given back when its turn is over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from limner.nn.arch import stand_in
from limner.nn.memory.block_swap import BlockSwapper, CopyStream, SwappedBlock
from limner.nn.memory.host_buffer import Host, HostBuffer, Pinned, ordinary

SLOTS = 2
"""Blocks that are on the device at once where they are streamed: one computes, the next arrives."""


class Turns:
    """Has each of some models come to a device when it is called, and the one before it go.

    Stock pipelines of diffusers put their inputs on the device: they look for what accelerate leaves on a
    model whose weights come later, and call it before they encode or decode an image.

    Args:
        models: Frozen models on the host.
        device: Where they compute.
        blocks_by_model: Of some of them: blocks that come one by one, in running order.
        pinned: Whether streamed blocks rest in memory that a GPU reads by itself.
    """

    def __init__(
        self,
        models: Iterable[nn.Module],
        device: torch.device,
        blocks_by_model: Mapping[nn.Module, Sequence[nn.Module]],
        *,
        pinned: bool,
    ) -> None:
        """See the class."""
        self.device = device
        self._current: nn.Module | None = None
        self._moves: list[tuple[Tensor, Tensor]] = []
        self._undo = ExitStack()
        self._streams: dict[nn.Module, BlockSwapper] = {}
        host = self._host(pinned=pinned and device.type == "cuda")
        with ExitStack() as unless_done:
            unless_done.callback(self.close)
            for model in models:
                model.requires_grad_(requires_grad=False)
                if blocks := blocks_by_model.get(model, ()):
                    self._streams[model] = self._stream(blocks, host)
                self._mark(model)
            unless_done.pop_all()

    def enter(self, model: nn.Module) -> None:
        """Have a model on the device, and no other."""
        if self._current is model:
            return
        self.rest()
        self._current = model  # first: where memory runs out half way, what has arrived goes back
        rests = self._resting(model)
        for table, name, tensor in _tensors(model):
            if (id(table), name) not in rests and tensor.device != self.device:
                self._moves.append((tensor, tensor.data))
                tensor.data = tensor.data.to(self.device)

    def rest(self) -> None:
        """Have no model on the device."""
        swapper = None if self._current is None else self._streams.get(self._current)
        self._current = None
        if swapper is not None:
            swapper.vacate()
        while self._moves:
            tensor, data = self._moves.pop()
            tensor.data = data

    def close(self) -> None:
        """Leave all models on the host, as they were."""
        self.rest()
        self._undo.close()
        self._streams.clear()

    def _host(self, *, pinned: bool) -> Host:
        if not pinned:
            return ordinary
        memory = Pinned()
        self._undo.callback(memory.close)
        return memory

    def _stream(self, blocks: Sequence[nn.Module], host: Host) -> BlockSwapper:
        copy_stream = CopyStream(self.device, in_thread=False)
        buffers = [HostBuffer(block, host) for block in blocks]
        swapper = BlockSwapper(buffers, copy_stream, min(SLOTS, len(buffers)))
        swapper.vacate()
        self._undo.callback(swapper.close)
        self._undo.callback(copy_stream.close)
        for number, block in enumerate(blocks):
            run = SwappedBlock(block.forward, swapper=swapper, block=number, checkpointed=False)
            self._undo.callback(stand_in(block, run))
        return swapper

    def _resting(self, model: nn.Module) -> set[tuple[int, str]]:
        swapper = self._streams.get(model)
        buffers = swapper.buffers if swapper else ()
        return {(id(entry.table), entry.name) for buffer in buffers for entry in buffer.entries}

    def _mark(self, model: Any) -> None:
        model._hf_hook = _Turn(self.enter, self.device)
        self._undo.callback(delattr, model, "_hf_hook")
        hook = model.register_forward_pre_hook(lambda module, _: self.enter(module))
        self._undo.callback(hook.remove)


class _Turn:
    """What diffusers looks for on a model: where it computes, and what is called before it does."""

    def __init__(self, enter: Callable[[nn.Module], None], device: torch.device) -> None:
        self.execution_device, self._enter = device, enter

    def pre_forward(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Called by diffusers before ``encode`` and ``decode`` of an autoencoder."""
        self._enter(model)
        return args, kwargs


def _tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every parameter and buffer once: the table that holds it, its name there, itself."""
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    entries = [
        (table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None
    ]
    return list({id(tensor): (table, name, tensor) for table, name, tensor in entries}.values())
