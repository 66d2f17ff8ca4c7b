"""The kinds of adapters beside LoRA: DoRA, LoHa and LoKr. Factors of the last two are LyCORIS's.

DoRA (Liu et al. 2024, arXiv:2402.09353) is a LoRA and the lengths of the changed weight's rows:
W' = m (W + dW) / ||W + dW||, a norm for each output, as in the paper and in peft. m is trained and begins as
the norms of W. The norm is taken for a constant by the gradient, as section 4.3 of the paper has it.

LoHa (Hyeon-Woo et al. 2022, arXiv:2108.06098) is the elementwise product of two low-rank matrices:
dW = (w1_a w1_b) * (w2_a w2_b) has up to the square of the rank, of twice the numbers of a LoRA.

LoKr (Yeh et al. 2024, arXiv:2309.14859, section 3.3) is the Kronecker product of a small and a large matrix:
dW = kron(w1, w2). The large one is factored where the rank is small beside it. Factors of LoHa and LoKr are
named, shaped and drawn as in LyCORIS, the library of the last paper.
"""

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.layers.adapter import (
    LORA,
    PAIR,
    AdapterKind,
    AdapterShape,
    FactorName,
    LowRank,
    LowRankConv,
    RecomputedAdapter,
    normal,
    uniform,
)
from limner.nn.layers.quantized_linear import QuantizedLinear

NAMES = PAIR | {"magnitude": FactorName("lora_magnitude_vector.default.weight", "magnitude")}
SMALLEST = 1e-30
"""Square of a norm below which a row counts as empty."""


class Norms(nn.Module):
    """The lengths of the rows of W + dW, without the matrix: ||W||^2 + 2 W . dW + ||dW||^2.

    With dW = s U D, row o of the mixed term is (W D^T)_o . U_o, and the last one is U_o (D D^T) U_o^T.
    """

    squares: Tensor

    def __init__(self, base: nn.Module) -> None:
        """Measure the rows of a frozen layer."""
        super().__init__()
        self.register_buffer("squares", row_squares(base), persistent=False)

    def initial(self) -> Tensor:
        """||W|| by rows, as it is computed for dW = 0: (out,), float32."""
        return self.squares.clamp(min=SMALLEST).sqrt()

    def changed(self, mixed: Tensor, pair: tuple[Tensor, Tensor], scale: float) -> Tensor:
        """||W + dW|| by rows: (out,), float32.

        Args:
            mixed: W D^T, (out, rank).
            pair: D and U, kernels laid flat.
            scale: s.
        """
        down, up = pair
        cross = (mixed.float() * up).sum(1)
        pure = ((up @ (down @ down.t())) * up).sum(1)
        squares = self.squares + 2 * scale * cross + scale**2 * pure
        return squares.clamp(min=SMALLEST).sqrt()


def row_squares(base: nn.Module) -> Tensor:
    """Of a frozen layer's weight, the squared length of each row, float32: (out,)."""
    weight = base.dequantize(torch.float32) if isinstance(base, QuantizedLinear) else base.weight.detach()  # pyright: ignore
    return weight.float().flatten(1).square().sum(1)  # pyright: ignore


class WeightDecomposed(LowRank):
    """y = m (W + dW) x / ||W + dW|| + b on a linear layer.

    For the gradient of m it keeps the output before m acts on it.
    """

    names = NAMES
    reads_weight = True

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class. The factors are zero, the magnitudes those of W."""
        super().__init__(base, shape, dropout)
        self.norms = Norms(base)
        self.magnitude = nn.Parameter(self.norms.initial())

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Y with the direction changed and the length trained."""
        whole = torch.addmm(*self.parts(x, y), alpha=self.scale)
        bias = self._bias(y.dtype)
        with torch.no_grad():
            pair = self.down.float(), self.up.float()
            mixed = self.base(self.down.to(y.dtype)).t()  # D as rows of an input
            mixed = mixed if bias is None else mixed - bias[:, None]
            norms = self.norms.changed(mixed, pair, self.scale)
        excess = (self.magnitude / norms - 1).to(y.dtype)
        directed = whole if bias is None else whole - bias
        return torch.addcmul(whole, directed, excess).view(y.shape)

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        bias = self.base.bias
        return bias.to(dtype) if isinstance(bias, Tensor) else None


class WeightDecomposedConv(LowRankConv):
    """The same on a convolution: a norm for each output channel."""

    names = NAMES
    reads_weight = True

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class. The factors are zero, the magnitudes those of W."""
        super().__init__(base, shape, dropout)
        self.norms = Norms(base)
        self.magnitude = nn.Parameter(self.norms.initial())

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Y with the direction changed and the length trained."""
        whole = torch.add(y, self.change(x, y), alpha=self.scale)
        with torch.no_grad():
            pair = self.down.float().flatten(1), self.up.float().flatten(1)
            mixed = self.weight.flatten(1).float() @ pair[0].t()
            norms = self.norms.changed(mixed, pair, self.scale)
        excess = (self.magnitude / norms - 1).to(y.dtype)[:, None, None]
        bias = self.base.bias
        directed = whole - bias.to(y.dtype)[:, None, None] if isinstance(bias, Tensor) else whole
        return torch.addcmul(whole, directed, excess)


DORA = AdapterKind(linear=WeightDecomposed, convolution=WeightDecomposedConv)
"""DoRA, with a norm for each output."""


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
            self.full_scale = 1.0
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


def kind_of(name: str, *, factor: int | None = None, full_matrix: bool = False) -> AdapterKind:
    """The kind that ``lora.kind`` names; the other arguments are those of a LoKr (:class:`Kronecker`)."""
    kinds = {"lora": LORA, "loha": LOHA, "lokr": lokr(factor, full_matrix=full_matrix), "dora": DORA}
    return kinds[name]
