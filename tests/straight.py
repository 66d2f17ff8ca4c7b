"""A training without a cache: each row is computed from its image and caption."""

from typing import Any

import torch
from torch import Tensor

from limner.models.family import pad_collate
from limner.training.cache import all_rows
from limner.training.encoders import uncached


class Values(dict[str, Tensor]):
    """What was computed of a row."""

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(self)


class Straight:
    """A store that was never stored."""

    def __init__(self, resolved: Any) -> None:
        self.rows = [Values(row) for row in uncached(resolved, all_rows(resolved))]
        self.ragged = resolved.family.padded_values

    def batch(self, numbers: list[int], device: torch.device) -> dict[str, Tensor]:
        rows = [self.rows[number] for number in numbers]
        return {
            name: (pad_collate if name in self.ragged else torch.cat)([row[name] for row in rows]).to(device)
            for name in rows[0]
        }

    def drawn(self, samples: Any, device: torch.device) -> dict[str, Tensor]:
        return self.batch([sample.view_index for sample in samples], device)
