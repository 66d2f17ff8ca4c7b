"""Low-rank adapters on convolutions (LoCon), as LyCORIS, sd-scripts and peft have them (arXiv:2309.14859)."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankConv(nn.Module):
    """y = W * x + scale * U (D * x): a frozen convolution and the pair that is trained beside it.

    D has the kernel, the stride and the padding of W and as many channels as the rank; U is 1 x 1. Otherwise
    as ``lora.LowRank``: the factors are fp32 masters, the arithmetic is that of the layer's output.

    Args:
        base: The convolution; of one group, and padded with zeros.
        rank: At least 1.
        scale: alpha / rank.
        dropout: On what the pair reads; knows when it is on.
    """

    def __init__(self, base: nn.Conv2d, rank: int, scale: float, dropout: nn.Module) -> None:
        """See the class. The factors are zero."""
        super().__init__()
        self.base: nn.Module = base
        device = next(chain(base.parameters(), base.buffers())).device
        self.down = nn.Parameter(torch.zeros(rank, base.in_channels, *base.kernel_size, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1, device=device))
        self.stride, self.padding, self.dilation = base.stride, base.padding, base.dilation
        self.scale, self.dropout = scale, dropout
        self.enabled = True

    @property
    def weight(self) -> Tensor:
        """That of the layer beneath: some models ask a layer for its dtype."""
        return self.base.weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        y = self.base(x)
        if not self.enabled:
            return y
        geometry = (self.stride, self.padding, self.dilation)
        inner = F.conv2d(self.dropout(x.to(y.dtype)), self.down.to(y.dtype), None, *geometry)  # pyright: ignore
        return torch.add(y, F.conv2d(inner, self.up.to(y.dtype)), alpha=self.scale)

    def extra_repr(self) -> str:
        """For people."""
        return f"rank={len(self.down)}, kernel={tuple(self.down.shape[2:])}, scale={self.scale:g}"


def plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that :class:`LowRankConv` takes."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"


def wide(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with a kernel larger than 1 x 1."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
