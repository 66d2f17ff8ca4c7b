"""Adapters that are more than two factors: DoRA, LoHa, LoKr. Each knows its product and its exact LoRA."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora.factors import Factors, require_fit, require_float32, with_kernel

Axis = Literal["out", "in"]

ROWS = 256
"""Of a LoHa that are made at once."""


@dataclass(frozen=True)
class Loha:
    """dW = (w1_a @ w1_b) * (w2_a @ w2_b), elementwise, scale baked in (Hyeon-Woo 2021, arXiv:2108.06098)."""

    w1_a: Tensor
    """(out, rank), float32."""
    w1_b: Tensor
    """(rank, in), float32; of a convolution, in * height * width."""
    w2_a: Tensor
    w2_b: Tensor
    kernel: tuple[int, ...] = ()
    """Height and width of a convolution's kernel, which the matrices do not show; () of a linear layer."""

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(self.w1_a, self.w1_b, self.w2_a, self.w2_b)
        shapes = [tuple(t.shape) for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b)]
        (height, first), (rank, width), (height_2, second), (rank_2, width_2) = (
            s if len(s) == 2 else (-1, -1) for s in shapes
        )
        consistent = (height, width) == (height_2, width_2) and first == rank and second == rank_2
        if not consistent or min(height, width, rank) < 1 or width % math.prod(self.kernel):
            raise BadLora(f"Matrices of shapes {shapes} do not make a LoHa. Export again.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight, kernels laid flat."""
        return self.w1_a.shape[0], self.w1_b.shape[1]

    @property
    def rank(self) -> int:
        """The rank of each half; the product has up to its square."""
        return self.w1_b.shape[0]

    def norm(self) -> float:
        """Frobenius norm of dW, made a few rows at a time."""
        total = 0.0
        for first, second in zip(self.w1_a.double().split(ROWS), self.w2_a.double().split(ROWS), strict=True):
            total += ((first @ self.w1_b.double()) * (second @ self.w2_b.double())).square().sum().item()
        return total**0.5

    def to_lora(self) -> Factors:
        """The same change as a LoRA, of the product of the two ranks."""
        down = (self.w1_b[:, None] * self.w2_b[None]).flatten(0, 1)
        up = (self.w1_a[:, :, None] * self.w2_a[:, None]).flatten(1)
        return with_kernel(Factors(down.contiguous(), up.contiguous()), self.kernel)

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64: (in[, n]) -> (out[, n]).

        Row i is (w1_a[i] w1_b * w2_a[i] w2_b) x = w1_a[i] (w1_b diag(x) w2_b^T) w2_a[i]^T: dW is never made,
        and a small matrix of rank x rank takes its place for each column of ``probe``.
        """
        columns = probe.double().reshape(probe.shape[0], -1)
        inner = torch.einsum("pk,kn,qk->npq", self.w1_b.double(), columns, self.w2_b.double())
        product = torch.einsum("ip,npq,iq->in", self.w1_a.double(), inner, self.w2_a.double())
        return product.reshape(-1, *probe.shape[1:])


@dataclass(frozen=True)
class Lokr:
    """dW = kron(w1, w2), scale baked in (Edalati et al., arXiv:2212.10650). Either side may be factored."""

    w1: tuple[Tensor, ...]
    """(w1,) of (out_1, in_1), or (w1_a, w1_b); float32."""
    w2: tuple[Tensor, ...]
    """(w2,) of (out_2, in_2[, height, width]), or (w2_a, w2_b); float32."""
    kernel: tuple[int, ...] = ()
    """Height and width of a convolution's kernel, where w2 is in factors, which do not show it; else ()."""

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(*self.w1, *self.w2)
        for side in (self.w1, self.w2):
            fits = len(side) in (1, 2) and all(t.dim() == 2 for t in side[: len(side) - 1] or self.w1[:1])
            if not fits or (len(side) == 2 and side[0].shape[1] != side[1].shape[0]):
                raise BadLora(f"Matrices of shapes {[tuple(t.shape) for t in side]} make no side of a LoKr.")
        if self.w2[-1].dim() == 2 and self.w2[-1].shape[1] % math.prod(self.kernel):
            raise BadLora(
                f"A LoKr of {self.w2[-1].shape[1]} columns has no kernel of {self.kernel}. Export again."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight, kernels laid flat."""
        rows = self.w1[0].shape[0] * self.w2[0].shape[0]
        return rows, self.w1[-1].shape[1] * self.w2[-1][0].numel()

    @property
    def rank(self) -> int:
        """Of its LoRA."""
        return self._side(self.w1)[1].shape[0] * self._side(self.w2)[1].shape[0]

    @property
    def dim(self) -> int | None:
        """What alpha is divided by in files; None when no side is factored, and alpha means nothing."""
        if len(self.w2) == 2:
            return self.w2[1].shape[0]
        return self.w1[1].shape[0] if len(self.w1) == 2 else None

    def to_lora(self) -> Factors:
        """The same change as a LoRA, of the product of the ranks of both sides."""
        (up_1, down_1), (up_2, down_2) = self._side(self.w1), self._side(self.w2)
        # With the kernel laid flat, its places are the last digits of a column's number, before and after.
        factors = Factors(torch.kron(down_1, down_2.flatten(1)).contiguous(), torch.kron(up_1, up_2))
        return with_kernel(factors, tuple(down_2.shape[2:]) or self.kernel)

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64, without making dW: (in[, n]) -> (out[, n])."""
        first, second = self.sides()
        grid = probe.double().reshape(first.shape[1], second.shape[1], -1)
        product = torch.einsum("ab,bcn,dc->adn", first, grid, second)
        return product.reshape(-1, *probe.shape[1:])

    def sides(self) -> tuple[Tensor, Tensor]:
        """Both matrices of the Kronecker product, float64, the kernel laid flat."""
        first = self.w1[0].double() if len(self.w1) == 1 else self.w1[0].double() @ self.w1[1].double()
        flat = self.w2[-1].double().flatten(1)
        return first, flat if len(self.w2) == 1 else self.w2[0].double() @ flat

    def norm(self) -> float:
        """Frobenius norm of dW: that of a Kronecker product is the product of both."""
        first, second = self.sides()
        return (first.norm() * second.norm()).item()

    @staticmethod
    def _side(side: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A side as (up, down), by an identity on its shorter edge if it is not factored."""
        if len(side) == 2:
            return side[0], side[1]
        (whole,) = side
        height, width = whole.shape[0], whole.flatten(1).shape[1]
        if height <= width or whole.dim() == 4:
            return torch.eye(height), whole
        return whole, torch.eye(width)


@dataclass(frozen=True)
class LokrRows:
    """Rows of a LoKr of a fused weight (q, k and v as one): those of one of its modules."""

    whole: Lokr
    start: int
    """First row."""
    stop: int
    """Last row + 1."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the module's weight."""
        return self.stop - self.start, self.whole.shape[1]

    @property
    def rank(self) -> int:
        """Of the whole's LoRA; these rows may have less."""
        return self.whole.rank

    def to_lora(self) -> Factors:
        """The same change as a LoRA: the whole's, with these rows of ``up``."""
        factors = self.whole.to_lora()
        return Factors(factors.down, factors.up[self.start : self.stop].contiguous())

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64: (in[, n]) -> (out[, n])."""
        return self.whole.times(probe)[self.start : self.stop]

    def norm(self) -> float:
        """Frobenius norm of these rows: row (i, j) is as long as row i of w1 times row j of w2."""
        first, second = (side.norm(dim=1) for side in self.whole.sides())
        return torch.outer(first, second).flatten()[self.start : self.stop].norm().item()

    @property
    def is_whole_blocks(self) -> bool:
        """Whether the rows begin and end where blocks of the Kronecker product do."""
        block = self.whole.w2[0].shape[0]
        return self.start % block == self.stop % block == 0

    def unfused(self) -> Lokr:
        """The same change as a LoKr of its own.

        Raises:
            BadLora: The rows do not begin and end where blocks of the Kronecker product do.
        """
        block = self.whole.w2[0].shape[0]
        if not self.is_whole_blocks:
            raise BadLora(
                f"This LoKr spans q, k and v in blocks of {block} rows, and a module begins at row "
                f"{self.start}: it cannot be taken apart. Use --flatten."
            )
        outer, *inner = self.whole.w1
        cut = outer[self.start // block : self.stop // block].clone()
        return Lokr((cut, *(side.clone() for side in inner)), tuple(side.clone() for side in self.whole.w2))


@dataclass(frozen=True)
class Dora:
    """W' = magnitude (W + dW) / ||W + dW||, norms along one axis (Liu et al., arXiv:2402.09353).

    What it changes depends on the weight W of the base, so without the base it has no product of its own.
    """

    factors: Factors | Loha | Lokr | LokrRows
    """dW, scale baked in: of a LoRA, or of another kind (LyCORIS' ``weight_decompose``)."""
    magnitude: Tensor
    """(out,) or (in,), float32."""
    axis: Axis
    """"out": a norm per row, as peft has it. "in": a norm per input channel, as LyCORIS has it by default."""

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(self.magnitude)
        size = self.shape[0] if self.axis == "out" else self.shape[1] // math.prod(kernel_of(self.factors))
        if tuple(self.magnitude.shape) != (size,):
            raise BadLora(
                f"A DoRA's magnitude has the shape {tuple(self.magnitude.shape)}, and its weight has "
                f"{size} of them along '{self.axis}'. Export again."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return self.factors.shape

    @property
    def rank(self) -> int:
        """Of its factors."""
        return self.factors.rank

    def norm(self) -> float:
        """Frobenius norm of its factors' dW: that of the whole change depends on the base."""
        return self.factors.norm()

    def over(self, weight: Tensor) -> Tensor:
        """The changed weight, float64, in the shape of ``weight``.

        Raises:
            BadLora: The weight has another shape.
        """
        require_fit(self.factors, weight)
        total = weight.double() + dense(self.factors).reshape(weight.shape)
        if self.axis == "out":
            norm = total.flatten(1).norm(dim=1)
            shape = (-1, *[1] * (weight.dim() - 1))
        else:
            norm = total.transpose(0, 1).flatten(1).norm(dim=1)
            shape = (1, -1, *[1] * (weight.dim() - 2))
        return total * (self.magnitude.double() / norm).reshape(shape)


WeightDelta = Factors | Dora | Loha | Lokr | LokrRows
"""What one module's part of a file can be."""

KINDS = {Factors: "LoRA", Dora: "DoRA", Loha: "LoHa", Lokr: "LoKr", LokrRows: "LoKr"}


def kind(change: WeightDelta) -> str:
    """Its name: "LoRA", "LoHa", "LoKr", "DoRA", "DoRA of LoHa", "DoRA of LoKr"."""
    if isinstance(change, Dora) and not isinstance(change.factors, Factors):
        return f"DoRA of {KINDS[type(change.factors)]}"
    return KINDS[type(change)]


def kernel_of(change: Factors | Loha | Lokr | LokrRows) -> tuple[int, ...]:
    """Height and width of a convolution's kernel; () of a linear layer, and where nothing shows it."""
    match change:
        case Factors():
            return tuple(change.down.shape[2:])
        case Loha():
            return change.kernel
        case Lokr():
            return tuple(change.w2[-1].shape[2:]) or change.kernel
        case LokrRows():
            return kernel_of(change.whole)


def dense(change: Factors | Loha | Lokr | LokrRows) -> Tensor:
    """The change itself, float64, (out, in * height * width): as large as the weight itself."""
    match change:
        case Factors():
            return change.dense()
        case Loha():
            first = change.w1_a.double() @ change.w1_b.double()
            return first * (change.w2_a.double() @ change.w2_b.double())
        case Lokr():
            return torch.kron(*change.sides())
        case LokrRows():
            return dense(change.whole)[change.start : change.stop]


def to_lora(change: WeightDelta) -> Factors:
    """The change as a LoRA, exactly.

    Raises:
        BadLora: It is a DoRA, which is no LoRA without its base.
    """
    match change:
        case Factors():
            return change
        case Dora():
            raise BadLora(
                "A DoRA depends on the weights of its base and has full rank. Make a plain LoRA of it by "
                "`lora convert --flatten 64 --base BASE`, or merge it into the base."
            )
        case Loha() | Lokr() | LokrRows():
            return change.to_lora()
