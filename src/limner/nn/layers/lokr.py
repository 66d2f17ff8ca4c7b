"""LoKr: the Kronecker product of a small and a large matrix (Yeh et al. 2024, arXiv:2309.14859, section 3.3).

dW = kron(w1, w2). The large one is factored where the rank is small beside it. Factors are named, shaped and
drawn as in LyCORIS.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.layers.adapter import AdapterKind, AdapterShape, FactorName, RecomputedAdapter, uniform


def factorization(size: int, factor: int | None) -> tuple[int, int]:
    """``size`` as (small, large), small * large = size, as LyCORIS factors it.

    Args:
        size: Outputs or inputs of a layer.
        factor: One of the two where it divides ``size``, else what the small one may be at most; None: the
            small one is as large as it can be.
    """
    if factor is not None and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = min(math.isqrt(size), factor or size)
    small = next(number for number in range(limit, 0, -1) if size % number == 0)
    return small, size // small


class Kronecker(RecomputedAdapter):
    """y = W x + scale * kron(w1, w2) x, on linear layers and convolutions.

    With x as a matrix (i1, i2), that is w1 x w2^T laid flat: dW is never made. w1 is (o1, i1). w2 is
    (o2, i2[, height, width]), or w2_a w2_b of the rank where that is below half of its longer side. Where
    both are whole, there is no rank, and the scale is 1.
    """

    names = {name: FactorName(f"lokr_{name}", f"lokr_{name}") for name in ("w1", "w2", "w2_a", "w2_b")}
    scaled_factor = "lokr_w1"

    def __init__(
        self,
        base: nn.Module,
        shape: AdapterShape,
        dropout: nn.Module,
        *,
        factor: int | None = None,
        full_matrix: bool = False,
    ) -> None:
        """See the class. The factors are zero.

        Args:
            base: The frozen layer.
            shape: How large.
            dropout: On what the factors read.
            factor: See :func:`factorization`.
            full_matrix: Whether w2 is whole at any rank.
        """
        super().__init__(base, shape, dropout)
        small_out, large_out = factorization(self.out_features, factor)
        small_in, large_in = factorization(self.in_features, factor)
        self.w1 = self.factor(small_out, small_in)
        self.is_whole = full_matrix or shape.rank >= max(large_out, large_in) / 2
        if self.is_whole:
            self.scale = 1.0
            self.w2 = self.factor(large_out, large_in, *self.kernel)
        else:
            self.w2_a = self.factor(large_out, shape.rank)
            self.w2_b = self.factor(shape.rank, large_in * math.prod(self.kernel))

    def draw(self, generator: torch.Generator) -> None:
        """w2, or w2_b, stays zero."""
        if not self.is_whole:
            uniform(self.w2_a.data, generator, self.w2_a.shape[1])
        uniform(self.w1.data, generator, self.w1.shape[1])

    def change(self, x: Tensor, *factors: Tensor) -> Tensor:
        """See :class:`Kronecker`."""
        w1, *w2 = (factor.to(x.dtype) for factor in factors)
        return self._of_images(x, w1, w2) if self.kernel else self._of_tokens(x, w1, w2)

    def _of_tokens(self, x: Tensor, w1: Tensor, w2: list[Tensor]) -> Tensor:
        """(..., in) -> (..., out)."""
        grid = x.reshape(-1, w1.shape[1], w2[-1].shape[1])  # (tokens, i1, i2)
        grid = F.linear(grid, w2[-1])  # by what is narrow first: (tokens, i1, rank), or (.., o2)
        grid = F.linear(grid.transpose(1, 2), w1).transpose(1, 2)  # (tokens, o1, rank)
        if len(w2) == 2:
            grid = F.linear(grid, w2[0])  # (tokens, o1, o2)
        return grid.reshape(*x.shape[:-1], self.out_features)

    def _of_images(self, x: Tensor, w1: Tensor, w2: list[Tensor]) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        grid = x.reshape(-1, x.shape[1] // w1.shape[1], *x.shape[2:])  # (B * i1, i2, H, W)
        grid = self.product(grid, w2[-1].flatten(1))  # (B * i1, rank or o2, H', W')
        sides = grid.shape[1:]
        grid = torch.matmul(w1, grid.reshape(len(x), w1.shape[1], -1))  # (B, o1, ..)
        if len(w2) == 2:
            grid = F.conv2d(grid.reshape(-1, *sides), w2[0][..., None, None])
        return grid.reshape(len(x), self.out_features, *sides[1:])


def lokr(factor: int | None = None, *, full_matrix: bool = False) -> AdapterKind:
    """LoKr, as LyCORIS has it. Arguments as of :class:`Kronecker`."""
    layer = partial(Kronecker, factor=factor, full_matrix=full_matrix)
    return AdapterKind(linear=layer, convolution=layer)
