"""A frozen pair of factors beside a frozen layer: a LoRA that belongs to the model while others are trained.

The pair is kept apart from the weight, so that this one may be stored in few bits, swapped or precomputed as
ever: merged, it would have to be stored again, and its small change would be lost in the rounding.
"""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenPair(nn.Module):
    """y = W x + U (D x), nothing of it trained. On convolutions D has the kernel and U is 1 x 1.

    Args:
        layer: A linear layer, stored in any way, or a convolution of one group.
        down: D, (rank, in[, height, width]); goes to where the layer is.
        up: U, (out, rank[, 1, 1]), the scale multiplied in.
    """

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor) -> None:
        """See the class."""
        super().__init__()
        self.layer = layer
        device = next(chain(layer.parameters(), layer.buffers())).device
        self.down = nn.Parameter(down.to(device), requires_grad=False)
        self.up = nn.Parameter(up.to(device), requires_grad=False)
        self.enabled = True
        convolution = isinstance(layer, nn.Conv2d)
        self.geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation) if convolution else ()

    @property
    def weight(self) -> Tensor:
        """That of the layer: some models ask a layer for its dtype."""
        return self.layer.weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) of a linear layer, (B, C, H, W) -> (B, C', H', W') of a convolution."""
        y = self.layer(x)
        if not self.enabled:
            return y
        down, up = self.down.to(y.dtype), self.up.to(y.dtype)
        if self.geometry:
            return y + F.conv2d(F.conv2d(x.to(y.dtype), down, None, *self.geometry), up)
        inner = F.linear(x.to(y.dtype), down)
        return torch.addmm(y.reshape(-1, len(up)), inner.reshape(-1, len(down)), up.t()).view(y.shape)


def enable(model: nn.Module, *, enabled: bool) -> None:
    """Have the frozen pairs of a model compute, or leave its layers as they are."""
    for module in model.modules():
        if isinstance(module, FrozenPair):
            module.enabled = enabled
