"""Singular values of a product of two factors, without making the product. All in float64.

dW = up @ down with up = Q1 R1 and down^T = Q2 R2 is Q1 (R1 R2^T) Q2^T, so the singular values of dW are those
of the small matrix in the middle, and its vectors are one product away. Q is never made where R comes from a
Cholesky factor (CholeskyQR; Yamamoto et al., ETNA 44, 2015), which costs two matrix products.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.lora.adapters import Lokr, LokrRows, WeightDelta, to_lora
from limner.lora.factors import Factors

WELL_CONDITIONED = 1e-4
"""Smallest ratio of the diagonal of a Cholesky factor that is trusted: its error is about 1e-16 / ratio^2."""


@dataclass(frozen=True)
class Spectrum:
    """A change as its singular values and vectors."""

    left: Tensor
    """(out, r), columns in order of ``values``."""
    values: Tensor
    """(r,), falling, float64."""
    right: Tensor
    """(r, in), rows."""
    kernel: tuple[int, ...] = ()
    """Sides of ``down`` behind the rank where it is a convolution's."""

    @property
    def cost(self) -> int:
        """Numbers that a LoRA stores for each singular value: rows and columns."""
        return self.left.shape[0] + self.right.shape[1]

    def cut(self, rank: int) -> Factors:
        """The nearest change of that rank, float32, the root of each singular value in either factor."""
        count = max(1, min(rank, len(self.values)))
        root = self.values[:count].sqrt()
        up = (self.left[:, :count] * root).float().contiguous()
        down = (root[:, None] * self.right[:count]).float().contiguous()
        if not self.kernel:
            return Factors(down, up)
        return Factors(down.reshape(count, *self.kernel), up[..., None, None])

    def error(self, rank: int) -> float:
        """Frobenius norm of what ``cut`` leaves out."""
        return self.values[rank:].square().sum().sqrt().item()


@dataclass(frozen=True)
class KroneckerSpectrum:
    """A LoKr as its singular values and vectors: all products of those of both sides (Van Loan 2000).

    Only the vectors that are asked for are made: all of them together are as large as the weight.
    """

    first: Spectrum
    """Of w1."""
    second: Spectrum
    """Of w2, its kernel laid flat."""
    values: Tensor
    """(r1 * r2,), falling, float64."""
    order: Tensor
    """Of each value, its number among the pairs (i, j), i * r2 + j."""
    kernel: tuple[int, ...] = ()
    """Sides of ``down`` behind the rank where it is a convolution's."""

    @property
    def cost(self) -> int:
        """Numbers that a LoRA stores for each singular value: rows and columns."""
        rows = self.first.left.shape[0] * self.second.left.shape[0]
        return rows + self.first.right.shape[1] * self.second.right.shape[1]

    def cut(self, rank: int) -> Factors:
        """The nearest change of that rank, float32, the root of each singular value in either factor."""
        count = max(1, min(rank, len(self.values)))
        pairs = self.order[:count]
        i, j = pairs // len(self.second.values), pairs % len(self.second.values)
        left = torch.einsum("ap,bp->abp", self.first.left[:, i], self.second.left[:, j]).flatten(0, 1)
        right = torch.einsum("pa,pb->pab", self.first.right[i], self.second.right[j]).flatten(1)
        return Spectrum(left, self.values[:count], right, self.kernel).cut(count)

    def error(self, rank: int) -> float:
        """Frobenius norm of what ``cut`` leaves out."""
        return self.values[rank:].square().sum().sqrt().item()


@dataclass(frozen=True)
class _Thin:
    """A tall matrix M = Q R."""

    matrix: Tensor
    triangle: Tensor
    orthogonal: Tensor | None

    def turn(self, inner: Tensor) -> Tensor:
        """Q @ inner."""
        if self.orthogonal is not None:
            return self.orthogonal @ inner
        return self.matrix @ torch.linalg.solve_triangular(self.triangle, inner, upper=True)


def _thin(matrix: Tensor) -> _Thin:
    lower, info = torch.linalg.cholesky_ex(matrix.T @ matrix)
    edge = lower.diagonal()
    if not info.item() and edge.min() > WELL_CONDITIONED * edge.max():
        return _Thin(matrix, lower.T, None)
    orthogonal, triangle = torch.linalg.qr(matrix)
    return _Thin(matrix, triangle, orthogonal)


def spectrum(change: WeightDelta, max_rank: int | None = None) -> Spectrum | KroneckerSpectrum:
    """Singular values of a change, and the vectors of the first ``max_rank`` of them (all, when left out).

    A LoKr is never made dense, nor its LoRA, which may have the rank of the whole weight. Rows of a LoKr that
    do not part at its blocks are the exception.

    Raises:
        BadLora: It is a DoRA.
    """
    match change:
        case Lokr():
            return _kronecker(change)
        case LokrRows() if change.is_whole_blocks:
            return _kronecker(change.unfused())
    return _of_factors(to_lora(change), max_rank)


def _kronecker(lokr: Lokr) -> KroneckerSpectrum:
    first, second = (_dense(side) for side in lokr.sides())
    values, order = torch.outer(first.values, second.values).flatten().sort(descending=True, stable=True)
    kernel = tuple(lokr.w2[-1].shape[2:]) or lokr.kernel
    columns = first.right.shape[1] * second.right.shape[1]
    sides = (columns // math.prod(kernel), *kernel) if kernel else ()
    return KroneckerSpectrum(first, second, values, order, sides)


def _dense(matrix: Tensor) -> Spectrum:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Spectrum(left, values, right)


def _of_factors(change: Factors, max_rank: int | None) -> Spectrum:
    """By a small matrix in the middle.

    Relative error of the values about 1e-12 and less, measured against a dense float64 decomposition.
    """
    up, down = _thin(change.up.double().flatten(1)), _thin(change.down.double().flatten(1).T)
    left, values, right = torch.linalg.svd(up.triangle @ down.triangle.T, full_matrices=False)
    count = len(values) if max_rank is None else min(max_rank, len(values))
    kernel = tuple(change.down.shape[1:]) if change.down.dim() == 4 else ()
    return Spectrum(up.turn(left[:, :count]), values, down.turn(right[:count].T).T, kernel)


def nearest(weight: Tensor, rank: int, *, seed: int = 0) -> Spectrum:
    """The first singular values and vectors of a dense change: the start of an extraction.

    A randomised range finder with 16 spare columns and 4 power iterations (Halko et al., arXiv:0909.4061,
    algorithm 4.4); a whole decomposition where ``rank`` is over a quarter of the shorter side. Nothing is
    centred, unlike ``torch.pca_lowrank``, which loses the mean.

    Args:
        weight: (out, in[, height, width]).
        rank: At least 1.
        seed: Of the random columns.
    """
    matrix = weight.double().flatten(1)
    kernel = tuple(weight.shape[1:]) if weight.dim() == 4 else ()
    if rank > min(matrix.shape) // 4:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return Spectrum(left, values, right, kernel)
    draw = torch.Generator().manual_seed(seed)
    width = min(rank + 16, *matrix.shape)
    basis = torch.linalg.qr(
        matrix @ torch.randn(matrix.shape[1], width, generator=draw, dtype=torch.float64)
    ).Q
    for _ in range(4):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return Spectrum(basis @ left, values, right, kernel)
