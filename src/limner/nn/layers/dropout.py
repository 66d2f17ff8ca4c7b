"""Dropout (Srivastava et al. 2014) that knows each sample's place, so that batches may be split at will."""

import math

import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph
from limner.nn.rng import seed_of

Places = list[tuple[int | str, ...]]
"""For each sample of the micro-batch under way, where it stands: (seed, step, position)."""


class PlacedDropout(nn.Module):
    """Zeroes numbers with probability ``p`` and scales the others by 1 / (1 - p), while training.

    The mask of a sample depends on its place and on ``name`` alone: not on who shares its micro-batch, on
    what was drawn before, or on whether a forward pass is computed a second time for its gradient. It is
    drawn on the device: masks are large, and other devices draw others.

    Args:
        p: In [0, 1).
        name: Of the layer, so that no two drop the same.
        places: The list that the caller fills before each forward pass.
    """

    def __init__(self, p: float, name: str, places: Places) -> None:
        """See the class."""
        super().__init__()
        self.p, self.name, self.places = p, name, places

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...), or (B * n, ...) with the samples one after another."""
        if not self.training:
            return x
        samples = len(self.places)
        if not samples or len(x) % samples:
            raise BrokenGraph(
                f"{self.name} sees {tuple(x.shape)} of {samples} samples, so lora.dropout cannot tell "
                "them apart. Set lora.dropout = 0."
            )
        generator = None if x.is_meta else torch.Generator(x.device)
        size = math.prod(x.shape) // samples
        rows = [
            torch.rand(size, generator=generator and generator.manual_seed(seed), device=x.device)
            for seed in (seed_of(*key, self.name) for key in self.places)
        ]
        mask = (torch.stack(rows) < self.p).view(x.shape)
        return x.masked_fill(mask, 0) / (1 - self.p)
