"""Values of several samples as one batch, on the device that computes with them."""

from collections.abc import Sequence

import torch
from torch import Tensor, cat
from torch.nn.functional import pad


def pad_collate(rows: Sequence[Tensor]) -> Tensor:
    """Rows (1, L_i, ...) -> (B, L, ...), L the longest: shorter ones end in zeros (False, for masks)."""
    longest = max(row.shape[1] for row in rows)
    return cat([pad(row, (0, 0) * (row.ndim - 2) + (0, longest - row.shape[1])) for row in rows])


def mask_or_none(mask: Tensor) -> Tensor | None:
    """A mask (B, L), or None when it hides nothing: attention without a mask is faster, and the same."""
    return None if bool(mask.all()) else mask


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, whose work under way is not waited for.

    A GPU's driver reads locked memory by itself. Of ordinary memory torch waits for the copy, and so for all
    that was asked of the GPU before: a micro-batch would not be prepared until the one before it is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps the room until it is there
