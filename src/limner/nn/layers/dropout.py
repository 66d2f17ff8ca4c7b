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

    def forward(self, given: Tensor) -> Tensor:
        """(B, ...), or (B * n, ...) with the samples one after another."""
        if not self.training:
            return given
        samples = len(self.places)
        if not samples or len(given) % samples:
            raise BrokenGraph(
                f"{self.name} sees {tuple(given.shape)} of {samples} samples, so lora.dropout cannot tell "
                "them apart. Set lora.dropout = 0."
            )
        generator = None if given.is_meta else torch.Generator(given.device)
        size = math.prod(given.shape) // samples
        rows = [
            torch.rand(size, generator=generator and generator.manual_seed(seed), device=given.device)
            for seed in (seed_of(*place, self.name) for place in self.places)
        ]
        dropped = (torch.stack(rows) < self.p).view(given.shape)
        return given.masked_fill(dropped, 0) / (1 - self.p)
