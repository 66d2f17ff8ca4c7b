"""Modules that the authors keep as one weight: their changes put together and taken apart, both exactly.

Stacked weights W = [W1; W2] change by stacked dW. With dW_i = B_i A_i that is
blockdiag(B_1, B_2) cat(A_1, A_2).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora.adapters import Dora, Loha, Lokr, LokrRows, WeightDelta, kind
from limner.lora.factors import Factors
from limner.models.key_map import KeyEntry


def row_counts(row: KeyEntry, rows: int) -> list[int]:
    """Rows of each module of a fused weight of ``rows`` rows.

    Raises:
        BadLora: They do not divide.
    """
    whole = sum(row.shares)
    if rows % whole:
        raise BadLora(
            f"{row.native} has {rows} rows, which do not part as {row.shares}. Name the family: --family."
        )
    return [rows // whole * share for share in row.shares]


def swap_halves(change: WeightDelta) -> WeightDelta:
    """The change of a weight whose halves, top and bottom, stand the other way round.

    Raises:
        BadLora: The change has no halves.
    """
    match change:
        case Factors() if change.up.shape[0] % 2 == 0:
            return Factors(change.down, _swap_rows(change.up))
        case Loha() if change.w1_a.shape[0] % 2 == 0:
            return Loha(_swap_rows(change.w1_a), change.w1_b, _swap_rows(change.w2_a), change.w2_b)
        case Lokr() if change.w1[0].shape[0] % 2 == 0:
            return Lokr((_swap_rows(change.w1[0]), *change.w1[1:]), change.w2)
        case Dora(axis=axis):
            factors = swap_halves(change.factors)
            assert isinstance(factors, Factors)
            return Dora(factors, change.magnitude if axis == "in" else _swap_rows(change.magnitude), axis)
    raise BadLora(f"A {kind(change)} of {change.shape[0]} rows has no halves to swap. Use --flatten.")


def _swap_rows(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2)
    return torch.cat([second, first])


def fuse(row: KeyEntry, members: Sequence[WeightDelta | None]) -> WeightDelta:
    """The change of the fused weight. A member that is None does not change.

    Raises:
        BadLora: The members are of kinds that have no fused form.
    """
    present = [
        (share, member) for share, member in zip(row.shares, members, strict=True) if member is not None
    ]
    unit = {member.shape[0] / share for share, member in present}
    if len(unit) != 1 or len({member.shape[1] for _, member in present}) != 1:
        raise BadLora(f"The modules of {row.native} do not fit on each other. Name the family: --family.")
    height = int(unit.pop())
    blocks = [height * share for share in row.shares]
    if all(isinstance(member, Factors) for _, member in present):
        return _fuse_factors([m if isinstance(m, Factors) else None for m in members], blocks)
    if all(isinstance(member, Loha) for _, member in present):
        return _fuse_lohas([m if isinstance(m, Loha) else None for m in members], blocks)
    wholes = [member.whole for _, member in present if isinstance(member, LokrRows)]
    if len(wholes) == len(members) and all(whole is wholes[0] for whole in wholes):
        return wholes[0]
    kinds = ", ".join(sorted({kind(member) for _, member in present}))
    raise BadLora(f"{row.native} is one weight there, and {kinds} of its parts cannot be one. Use --flatten.")


def _fuse_factors(members: Sequence[Factors | None], blocks: Sequence[int]) -> Factors:
    present = [member for member in members if member is not None]
    first = present[0].down
    if len(present) == len(members) and all(torch.equal(first, member.down) for member in present[1:]):
        return Factors(first.clone(), torch.cat([member.up for member in present]))
    up = _diagonal([None if member is None else member.up.flatten(1) for member in members], blocks)
    down = torch.cat([member.down for member in present])
    return Factors(down, up[..., None, None] if down.dim() == 4 else up)


def _fuse_lohas(members: Sequence[Loha | None], blocks: Sequence[int]) -> Loha:
    present = [member for member in members if member is not None]
    return Loha(
        _diagonal([None if m is None else m.w1_a for m in members], blocks),
        torch.cat([m.w1_b for m in present]),
        _diagonal([None if m is None else m.w2_a for m in members], blocks),
        torch.cat([m.w2_b for m in present]),
    )


def _diagonal(ups: Sequence[Tensor | None], blocks: Sequence[int]) -> Tensor:
    """Each (height, rank) in its own rows and columns; a None leaves its rows zero and has no columns."""
    return torch.block_diag(
        *(torch.zeros(height, 0) if up is None else up for up, height in zip(ups, blocks, strict=True))
    )


def split(row: KeyEntry, change: WeightDelta) -> Sequence[WeightDelta | None]:
    """The changes of the modules of a fused weight; None for one that does not change.

    Raises:
        BadLora: The change does not part.
    """
    blocks = row_counts(row, change.shape[0])
    match change:
        case Factors():
            return _split_factors(change, blocks)
        case Loha():
            halves = zip(change.w1_a.split(blocks), change.w2_a.split(blocks), strict=True)
            return [
                Loha(first.clone(), change.w1_b.clone(), second.clone(), change.w2_b.clone())
                for first, second in halves
            ]
        case Dora(axis="out"):
            factors = _split_factors(change.factors, blocks, whole=True)
            cuts = change.magnitude.split(blocks)
            return [Dora(f, m.clone(), "out") for f, m in zip(factors, cuts, strict=True) if f is not None]
        case Lokr():
            ends = list(itertools.accumulate(blocks))
            return [LokrRows(change, end - height, end) for end, height in zip(ends, blocks, strict=True)]
    raise BadLora(f"{row.native} has a DoRA whose norms span q, k and v, which are apart here. Use --base.")


def _split_factors(change: Factors, blocks: Sequence[int], *, whole: bool = False) -> list[Factors | None]:
    """Each block of rows with the ranks that it uses: what ``join`` put together comes apart as it was."""
    parts: list[Factors | None] = []
    whole = whole or not change.up.any()
    for up in change.up.split(list(blocks)):
        used = up.flatten(1).any(0)
        if whole or used.all():
            parts.append(Factors(change.down.clone(), up.clone()))
        elif used.any():
            parts.append(Factors(change.down[used].clone(), up[:, used].clone()))
        else:
            parts.append(None)
    return parts
