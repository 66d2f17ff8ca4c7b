"""The nearest adapter of each kind to a change of weights. All in float64.

LoRA: by singular values. LoKr: the nearest Kronecker product is the first singular vectors of the change with
its entries rearranged (Van Loan & Pitsianis 1993, "Approximation with Kronecker products"), of the sides that
LyCORIS chooses. LoHa: no closed form is known; alternating least squares from the LoRA of the same rank, so
never further than that. DoRA: the lengths of the changed weight's rows as they are, and the LoRA that turns
the base's rows into their directions.
"""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from limner.errors import BadLora, BadUsage
from limner.lora import adapters
from limner.lora.adapters import Axis, Dora, Loha, Lokr, WeightDelta, kind, to_lora
from limner.lora.factors import require_fit
from limner.lora.svd import nearest
from limner.nn.layers.kinds import factorization
from limner.recipe.train import KindName

KIND_NAMES = get_args(KindName)

ROUNDS = {"loha": 10, "lokr": 20, "dora": 5}
"""At most, of what alternates; a LoKr ends before, once a round gains nothing."""
SMALLEST_GAIN = 1e-9
"""Of the squared size of the change: a round that gains less is the last one."""
RIDGE = 1e-12
"""Of the trace, which keeps small linear systems solvable."""


@dataclass(frozen=True, kw_only=True)
class KindRequest:
    """Which adapter is wanted.

    Raises:
        BadUsage: The kind is unknown, or a factor is given that it does not have.
    """

    kind: KindName
    rank: int
    factor: int | None = None
    """Of a LoKr: see :func:`limner.nn.layers.kinds.factorization`."""
    norms: Axis = "out"
    """Of a DoRA: the axis that the tool computes."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        require_kind(self.kind, self.factor)
        if self.rank < 1:
            raise BadUsage(f"--rank is {self.rank}; it must be at least 1.")


def require_kind(name: str, factor: int | None) -> None:
    """Raise ``BadUsage`` unless there are adapters of that kind, with that factor."""
    if name not in KIND_NAMES:
        raise BadUsage(f"--kind is {name!r}; choose {', '.join(KIND_NAMES)}.")
    if factor is not None and name != "lokr":
        raise BadUsage(f"--factor is {factor}, and only a LoKr has one. Say --kind lokr.")
    if factor is not None and factor < 1:
        raise BadUsage(f"--factor is {factor}; it must be at least 1.")


def nearest_change(
    delta: Tensor, request: KindRequest, weight: Tensor | None = None
) -> tuple[WeightDelta, float]:
    """An adapter of a kind, and |dW - dW'| / |dW| of what that leaves out.

    Args:
        delta: The change, (out, in[, height, width]).
        request: The kind, and how large.
        weight: Of the base, in the same shape: a DoRA needs it.

    Raises:
        BadUsage: A DoRA is wanted, and there is no base.
    """
    size = delta.double().norm().item()
    if request.kind == "dora":
        if weight is None:
            raise BadUsage("A DoRA holds lengths of the base's weights. Give the base with --base.")
        change, error = _dora(delta.double(), weight.double(), request)
        return change, error / size if size else 0.0
    makers = {"lora": _lora, "loha": _loha, "lokr": _lokr}
    change = makers[request.kind](delta.double(), request)
    error = (delta.double().flatten(1) - to_lora(change).dense()).norm().item()
    return change, error / size if size else 0.0


def dense(change: WeightDelta, weight: Tensor | None) -> Tensor:
    """What an adapter changes, float64: (out, in * height * width), or as ``weight`` is shaped.

    Raises:
        BadLora: A DoRA has no base.
    """
    if isinstance(change, Dora) and weight is not None:
        return change.over(weight) - weight.double()
    factors = to_lora(change)
    shape = (factors.shape[0], *factors.down.shape[1:])
    if weight is not None:
        require_fit(factors, weight)
        shape = tuple(weight.shape)
    return factors.dense().reshape(shape)


def rank_of(change: WeightDelta) -> int:
    """The rank by which an adapter is called: that of a LoKr's w2."""
    if isinstance(change, Lokr):
        return change.dim or min(change.w2[0].shape[0], change.w2[0].shape[1])
    return change.rank


def is_of_kind(change: WeightDelta, name: str) -> bool:
    """Whether it is one already."""
    return kind(change).lower() == name


def _lora(delta: Tensor, request: KindRequest) -> WeightDelta:
    return nearest(delta, request.rank).cut(request.rank)


def _lokr(delta: Tensor, request: KindRequest) -> Lokr:
    """The first singular vectors of (out_1 in_1, out_2 in_2 kernel), w2 cut to its rank where it has one."""
    kernel = tuple(delta.shape[2:])
    (out_1, out_2), (in_1, in_2) = (factorization(side, request.factor) for side in delta.shape[:2])
    grid = delta.reshape(out_1, out_2, in_1, in_2, -1).permute(0, 2, 1, 3, 4)
    table = grid.reshape(out_1 * in_1, -1)  # a Kronecker product is of rank 1 here
    first = nearest(table, 1)
    left, right = first.left[:, 0], first.right[0] * first.values[0]
    if request.rank >= max(out_2, in_2) / 2:
        w1, w2 = _even(left, right)
        return Lokr((w1.view(out_1, in_1),), (w2.view(out_2, in_2, *kernel),))
    up, down = right.new_zeros(0), right.new_zeros(0)
    best = math.inf
    for _ in range(ROUNDS["lokr"]):  # the best w2 for w1 is the projection, cut; then the best w1 for that w2
        cut = nearest((left @ table).view(out_2, -1), request.rank).cut(request.rank)
        up, down = cut.up.double(), cut.down.double()
        product = (up @ down).flatten()
        image = table @ product
        error = (table.square().sum() - image.square().sum() / product.square().sum()).item()
        left = image / image.norm()
        if best - error <= SMALLEST_GAIN * table.square().sum().item():
            break
        best = error
    product = (up @ down).flatten()
    strength = (table @ product).norm() / product.square().sum()
    w1, w2_a = _even(left * strength, up.flatten())
    sides = (w2_a.view_as(up), down.float())
    return Lokr((w1.view(out_1, in_1),), sides, kernel)


def _even(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of a product, scaled so that their numbers are alike, float32."""
    sizes = first.square().mean().sqrt(), second.square().mean().sqrt()
    scale = (sizes[1] / sizes[0]).sqrt() if min(sizes) > 0 else first.new_ones(())
    return (first * scale).float().contiguous(), (second / scale).float().contiguous()


def _loha(delta: Tensor, request: KindRequest) -> Loha:
    """Begins as the LoRA of the rank times a matrix of ones."""
    target, kernel = delta.flatten(1), tuple(delta.shape[2:])
    start = nearest(target, request.rank).cut(request.rank)
    a, b = start.up.double(), start.down.double()
    draw = torch.Generator().manual_seed(0)
    d = torch.randn(len(b), target.shape[1], generator=draw, dtype=torch.float64)
    d[0] = 1
    c = torch.zeros(target.shape[0], len(b), dtype=torch.float64)
    c[:, 0] = 1
    for _ in range(ROUNDS["loha"]):
        c = _rows(target, a @ b, d)
        d = _rows(target.T, (a @ b).T, c.T).T
        a = _rows(target, c @ d, b)
        b = _rows(target.T, (c @ d).T, a.T).T
    sizes = [part.square().mean().sqrt().item() for part in (a, b, c, d)]
    level = math.prod(sizes) ** 0.25
    even = [part * (level / size if size else 1) for part, size in zip((a, b, c, d), sizes, strict=True)]
    a, b, c, d = (part.float().contiguous() for part in even)
    return Loha(a, b, c, d, kernel)


def _rows(target: Tensor, weight: Tensor, basis: Tensor) -> Tensor:
    """Rows x with (x basis) * weight nearest to the target: (m, n), (m, n), (r, n) -> (m, r)."""
    rank = len(basis)
    pairs = (basis[:, None] * basis[None]).flatten(0, 1)  # (r * r, n)
    normal = (weight.square() @ pairs.T).view(-1, rank, rank)
    trace = normal.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-300)
    normal = normal + RIDGE * trace[:, None, None] * torch.eye(rank, dtype=normal.dtype)
    return torch.linalg.solve(normal, (target * weight) @ basis.T)


def _dora(delta: Tensor, weight: Tensor, request: KindRequest) -> tuple[Dora, float]:
    """Lengths as they are; rows of the new weight may be scaled freely to be nearest to W + dW."""
    new_weight = weight + delta
    rows = new_weight if request.norms == "out" else new_weight.transpose(0, 1)
    lengths = rows.flatten(1).norm(dim=1)
    if not lengths.min() > 0:
        raise BadLora("A row of the changed weight is empty, and a DoRA holds none. Choose --kind lora.")

    def turned(target: Tensor) -> tuple[Dora, float]:
        factors = nearest(target - weight, request.rank).cut(request.rank)
        dora = Dora(factors, lengths.float(), request.norms)
        return dora, (dora.over(weight) - new_weight).norm().item()

    results, near = [turned(new_weight)], weight
    for _ in range(ROUNDS["dora"]):
        results.append(turned(_scaled(new_weight, near, request.norms)))
        near = weight + adapters.dense(results[-1][0].factors).view_as(weight)
    return min(results, key=lambda result: result[1])


def _scaled(new_weight: Tensor, near: Tensor, norms: Axis) -> Tensor:
    """Each row of a matrix scaled to be nearest to another's, or each column."""
    rows, references = (x if norms == "out" else x.transpose(0, 1) for x in (new_weight, near))
    squares = rows.flatten(1).square().sum(1).clamp(min=1e-300)
    scales = (rows * references).flatten(1).sum(1) / squares
    result = rows * scales.view(-1, *[1] * (rows.dim() - 1))
    return result if norms == "out" else result.transpose(0, 1)
