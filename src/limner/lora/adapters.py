"""Adapters that are more than two factors: DoRA, LoHa, LoKr. Each knows its product and its exact LoRA."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora.factors import Factors, require_float32

Axis = Literal["out", "in"]


@dataclass(frozen=True)
class Dora:
    """W' = magnitude (W + dW) / ||W + dW||, norms along one axis (Liu et al., arXiv:2402.09353).

    What it changes depends on the weight W of the base, so without the base it has no product of its own.
    """

    factors: Factors
    """dW, scale baked in."""
    magnitude: Tensor
    """(out,) or (in,), float32."""
    axis: Axis
    """"out": a norm per row, as peft has it. "in": a norm per input channel, as LyCORIS has it by default."""

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(self.magnitude)
        size = self.shape[0] if self.axis == "out" else self.factors.down.shape[1]
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

    def over(self, weight: Tensor) -> Tensor:
        """The changed weight, float64, in the shape of ``weight``.

        Raises:
            BadLora: The weight has another shape.
        """
        self.factors.require_fit(weight)
        total = weight.double() + self.factors.dense().reshape(weight.shape)
        if self.axis == "out":
            norm = total.flatten(1).norm(dim=1)
            shape = (-1, *[1] * (weight.dim() - 1))
        else:
            norm = total.transpose(0, 1).flatten(1).norm(dim=1)
            shape = (1, -1, *[1] * (weight.dim() - 2))
        return total * (self.magnitude.double() / norm).reshape(shape)


@dataclass(frozen=True)
class Loha:
    """dW = (w1_a @ w1_b) * (w2_a @ w2_b), elementwise, scale baked in (Hyeon-Woo 2021, arXiv:2108.06098)."""

    w1_a: Tensor
    """(out, rank), float32."""
    w1_b: Tensor
    """(rank, in), float32; of a convolution, in * height * width."""
    w2_a: Tensor
    w2_b: Tensor

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(self.w1_a, self.w1_b, self.w2_a, self.w2_b)
        shapes = [tuple(t.shape) for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b)]
        (height, first), (rank, width), (height_2, second), (rank_2, width_2) = (
            s if len(s) == 2 else (-1, -1) for s in shapes
        )
        if (
            (height, width) != (height_2, width_2)
            or first != rank
            or second != rank_2
            or min(height, width, rank) < 1
        ):
            raise BadLora(f"Matrices of shapes {shapes} do not make a LoHa. Export again.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight, kernels laid flat."""
        return self.w1_a.shape[0], self.w1_b.shape[1]

    @property
    def rank(self) -> int:
        """The rank of each half; the product has up to its square."""
        return self.w1_b.shape[0]

    def to_lora(self) -> Factors:
        """The same change as a LoRA, of the product of the two ranks."""
        down = (self.w1_b[:, None] * self.w2_b[None]).flatten(0, 1)
        up = (self.w1_a[:, :, None] * self.w2_a[:, None]).flatten(1)
        return Factors(down.contiguous(), up.contiguous())

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64: (in[, n]) -> (out[, n])."""
        first = self.w1_a.double() @ self.w1_b.double()
        return (first * (self.w2_a.double() @ self.w2_b.double())) @ probe.double()


@dataclass(frozen=True)
class Lokr:
    """dW = kron(w1, w2), scale baked in (Edalati et al., arXiv:2212.10650). Either side may be factored."""

    w1: tuple[Tensor, ...]
    """(w1,) of (out_1, in_1), or (w1_a, w1_b); float32."""
    w2: tuple[Tensor, ...]
    """(w2,) of (out_2, in_2[, height, width]), or (w2_a, w2_b); float32."""

    def __post_init__(self) -> None:
        """Check shapes."""
        require_float32(*self.w1, *self.w2)
        for side in (self.w1, self.w2):
            fits = len(side) in (1, 2) and all(t.dim() == 2 for t in side[: len(side) - 1] or self.w1[:1])
            if not fits or (len(side) == 2 and side[0].shape[1] != side[1].shape[0]):
                raise BadLora(f"Matrices of shapes {[tuple(t.shape) for t in side]} make no side of a LoKr.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight, kernels laid flat."""
        first, second = self._full()
        return first.shape[0] * second.shape[0], first.shape[1] * second.shape[1]

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
        if down_2.dim() == 4:
            down_1 = down_1[..., None, None]
        up = torch.kron(up_1, up_2)
        down = torch.kron(down_1, down_2)
        return Factors(down.contiguous(), up[..., None, None] if down.dim() == 4 else up)

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64, without making dW: (in[, n]) -> (out[, n])."""
        first, second = (side.double() for side in self._full())
        grid = probe.double().reshape(first.shape[1], second.shape[1], -1)
        product = torch.einsum("ab,bcn,dc->adn", first, grid, second)
        return product.reshape(-1, *probe.shape[1:])

    def _full(self) -> tuple[Tensor, Tensor]:
        first = self.w1[0] if len(self.w1) == 1 else self.w1[0] @ self.w1[1]
        second = self.w2[0].flatten(1) if len(self.w2) == 1 else self.w2[0] @ self.w2[1].flatten(1)
        return first, second

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


WeightDelta = Factors | Dora | Loha | Lokr
"""What one module's part of a file can be."""

KINDS = {Factors: "LoRA", Dora: "DoRA", Loha: "LoHa", Lokr: "LoKr"}


def kind(change: WeightDelta) -> str:
    """Its name: "LoRA", "DoRA", "LoHa", "LoKr"."""
    return KINDS[type(change)]


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
                "A DoRA depends on the weights of its base and has full rank. "
                "Give the base with --base to make a plain LoRA of it, or bake it into the base."
            )
        case Loha() | Lokr():
            return change.to_lora()
