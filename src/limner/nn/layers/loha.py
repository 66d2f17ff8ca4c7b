"""LoHa: the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2022, arXiv:2108.06098).

dW = (w1_a w1_b) * (w2_a w2_b) has up to the square of the rank, of twice the numbers of a LoRA. Factors are
named, shaped and drawn as in LyCORIS (Yeh et al. 2024, arXiv:2309.14859).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.layers.adapter import AdapterKind, AdapterShape, FactorName, RecomputedAdapter, normal

MATRICES = (("w1_a", 1), ("w1_b", 0), ("w2_a", 1), ("w2_b", 0))
"""The factors, and which axis of each is as long as the rank."""


class Hadamard(RecomputedAdapter):
    """y = W x + scale * ((w1_a w1_b) * (w2_a w2_b)) x, on linear layers and convolutions.

    dW is the LoRA of rank^2 whose row (p, q) of D is w1_b[p] * w2_b[q] and whose column (p, q) of U is
    w1_a[:, p] * w2_a[:, q]. It is computed so where that takes fewer products than dW itself would.
    """

    names = {name: FactorName(f"hada_{name}", f"hada_{name}", axis) for name, axis in MATRICES}
    scaled_factor: ClassVar[str] = "hada_w1_a"

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class. The factors are zero."""
        super().__init__(base, shape, dropout)
        self.w1_a = self.factor(self.out_features, shape.rank)
        self.w1_b = self.factor(shape.rank, self.columns)
        self.w2_a = self.factor(self.out_features, shape.rank)
        self.w2_b = self.factor(shape.rank, self.columns)
        size = self.out_features * self.columns
        self.is_factored = shape.rank**2 * (self.out_features + self.columns) <= size
        """Whether dW is never made."""

    def draw(self, generator: torch.Generator) -> None:
        """w2_a stays zero."""
        normal(self.w1_b.data, generator, 1.0)
        normal(self.w1_a.data, generator, 0.1)
        normal(self.w2_b.data, generator, 1.0)

    def change(self, x: Tensor, *factors: Tensor) -> Tensor:
        """See :class:`Hadamard`. Products of factors are made in fp32."""
        w1_a, w1_b, w2_a, w2_b = factors
        if not self.is_factored:
            return self.product(x, ((w1_a @ w1_b) * (w2_a @ w2_b)).to(x.dtype))
        down = (w1_b[:, None] * w2_b[None]).flatten(0, 1).to(x.dtype)
        up = (w1_a[:, :, None] * w2_a[:, None]).flatten(1).to(x.dtype)
        inner = self.product(x, down)
        return F.conv2d(inner, up[..., None, None]) if self.kernel else F.linear(inner, up)


LOHA = AdapterKind(linear=Hadamard, convolution=Hadamard)
"""LoHa, as LyCORIS has it."""
