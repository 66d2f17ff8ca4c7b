"""DoRA: a LoRA and the lengths of the changed weight's rows (Liu et al. 2024, arXiv:2402.09353).

W' = m (W + dW) / ||W + dW||, a norm for each output, as in the paper and in peft. m is trained and begins as
the norms of W. The norm is taken for a constant by the gradient, as section 4.3 of the paper has it.
"""

import torch
from torch import Tensor, nn

from limner.nn.layers.adapter import PAIR, AdapterKind, AdapterShape, FactorName, LowRank, LowRankConv
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
