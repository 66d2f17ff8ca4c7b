"""Sequences of unequal lengths in one batch."""

from collections.abc import Sequence

from torch import Tensor, cat
from torch.nn.functional import pad


def pad_collate(rows: Sequence[Tensor]) -> Tensor:
    """Rows (1, L_i, ...) -> (B, L, ...), L the longest: shorter ones end in zeros (False, for masks)."""
    longest = max(row.shape[1] for row in rows)
    return cat([pad(row, (0, 0) * (row.ndim - 2) + (0, longest - row.shape[1])) for row in rows])


def mask_or_none(mask: Tensor) -> Tensor | None:
    """A mask (B, L), or None when it hides nothing: attention without a mask is faster, and the same."""
    return None if bool(mask.all()) else mask
