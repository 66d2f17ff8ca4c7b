"""Random numbers that depend on a place in the run, never on how the run came there: draws, and dropout."""

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph


class Draw(Protocol):
    """What a unit draws from. Numbers are named, so leaving one out does not change the others."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, type and device of ``like``, (B, ...)."""
        ...

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """One number in (0, 1) for each sample of ``like``: (B,), float32, on its device."""
        ...


def seed_of(*place: int | str) -> int:
    """A 63-bit seed for a place such as (seed, step, position, 'noise')."""
    digest = hashlib.sha256("\0".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, whose work under way is not waited for.

    A GPU's driver reads locked memory by itself. Of ordinary memory torch waits for the copy, and so for all
    that was asked of the GPU before: a micro-batch would not be prepared until the one before it is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps the room until it is there


class KeyedRng:
    """The draws of a micro-batch: each sample has its own place, so batches may be split at will.

    Numbers are made on the CPU, so that every device and any number of processes sees the same ones.

    Args:
        places: For each of the B samples, where it stands: (seed, step, position in the effective batch).
    """

    def __init__(self, places: Sequence[tuple[int | str, ...]]) -> None:
        self.places = tuple(places)

    def _generators(self, name: str) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed_of(*place, name)) for place in self.places]

    def normal(self, name: str, like: Tensor) -> Tensor:
        """See :class:`Draw`."""
        shape = like.shape[1:]
        rows = [torch.randn(shape, generator=generator) for generator in self._generators(name)]
        return to_device(torch.stack(rows).to(like.dtype), like.device)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """See :class:`Draw`. Kept a little inside (0, 1), where the inverse normal CDF is finite."""
        rows = [torch.rand((), generator=generator) for generator in self._generators(name)]
        return to_device(torch.stack(rows).clamp(1e-6, 1 - 1e-6), like.device)


class Even(KeyedRng):
    """Draws whose times stand at given quantiles of their density, so that a measurement has no luck in it.

    Args:
        places: As in :class:`KeyedRng`.
        quantiles: For each sample, in (0, 1).
    """

    def __init__(self, places: Sequence[tuple[int | str, ...]], quantiles: Sequence[float]) -> None:
        super().__init__(places)
        self.quantiles = tuple(quantiles)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """The quantiles, (B,)."""
        del name
        return torch.tensor(self.quantiles, device=like.device)


class DeviceRng:
    """The draws of a whole batch from one generator on the device: for large batches on one GPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, name: str, like: Tensor) -> Tensor:
        """See :class:`Draw`. The name is not used: order decides."""
        del name
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """See :class:`Draw`."""
        del name
        rows = torch.rand(len(like), generator=self.generator, device=like.device)
        return rows.clamp(1e-6, 1 - 1e-6)


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
