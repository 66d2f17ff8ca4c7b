"""Weights, gradients and optimizer of a full fine-tune on the host; the device has a copy to compute with.

Masters are fp32 on the host. The working copy has the precision of the arithmetic in linear layers and
convolutions, which is what autocast would make of the masters at each use, and fp32 elsewhere. A gradient
leaves the device as soon as it is made. On the CPU the same happens beside itself, to be proved there.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limner.nn.layers import full
from limner.nn.memory.cast_inputs import AUTOCAST_LAYERS
from limner.nn.memory.host_buffer import ALIGNMENT, Pinned, ordinary


def halve(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn what autocast casts at each use into ``dtype``, for good."""
    for layer in model.modules():
        if isinstance(layer, AUTOCAST_LAYERS):
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


class Offload:
    """The masters of a model whose weights are all trained, and the way there and back.

    Args:
        model: On the host, in fp32, released (``nn.layers.full``). Its weights become the working copy.
        dtype: Of the arithmetic.
        device: Where the working copy computes; whoever made this brings it there.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype, device: torch.device) -> None:
        """See the class."""
        self.device = device
        self.working = full.named(model)
        self.masters = {name: nn.Parameter(weight.detach()) for name, weight in self.working.items()}
        halve(model, dtype)
        for name, weight in self.working.items():
            if weight.data_ptr() == self.masters[name].data_ptr():
                weight.data = weight.data.clone()
        self._pinned = Pinned() if device.type == "cuda" else None
        self._staging = dict(self._places(self._pinned or ordinary))
        self._coming: list[str] = []
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for name, weight in self.working.items():
            weight.register_post_accumulate_grad_hook(partial(self._take, name))

    def _places(self, host: Any) -> Iterator[tuple[str, Tensor]]:
        """Room on the host for each gradient on its way down, and for each weight on its way up."""
        sizes = [-(-weight.nbytes // ALIGNMENT) * ALIGNMENT for weight in self.working.values()]
        room, start = host(sum(sizes)), 0
        for (name, weight), size in zip(self.working.items(), sizes, strict=True):
            yield name, room[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
            start += size

    def _take(self, name: str, weight: Tensor) -> None:
        """Send a gradient that is ready to the host; the device keeps none."""
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        self._coming.append(name)
        if self._stream is None:
            self._staging[name].copy_(gradient)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            self._staging[name].copy_(gradient, non_blocking=True)
        gradient.record_stream(self._stream)

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of a backward pass to those of the masters, once they are here."""
        if self._stream is not None:
            self._stream.synchronize()
        for name in self._coming:
            master, staging = self.masters[name], self._staging[name]
            if master.grad is None:
                master.grad = staging.to(torch.float32, copy=True)
            else:
                master.grad.add_(staging)
        self._coming.clear()

    def forget(self) -> None:
        """Drop gradients of a backward pass that was not finished."""
        if self._stream is not None:
            self._stream.synchronize()
        self._coming.clear()

    @torch.no_grad()
    def publish(self) -> None:
        """Have the device compute with the masters as they are now."""
        if self._stream is not None:  # what was sent before may still be read
            torch.cuda.current_stream(self.device).synchronize()
        for name, weight in self.working.items():
            self._staging[name].copy_(self.masters[name])
            weight.copy_(self._staging[name], non_blocking=True)
