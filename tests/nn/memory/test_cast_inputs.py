from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.nn.arch import ArchSpec
from limner.nn.memory.cast_inputs import cast_once

HALF = torch.bfloat16
ARCH = ArchSpec(blocks=("blocks.*",))


class Model(nn.Module):
    """Looks at what it is given, as it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv2d(1, 2, 1, dtype=HALF)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4, dtype=HALF))])
        self.seen: dict[str, torch.dtype] = {}

    def forward(self, rows: Any, hidden_states: Tensor, **more: Any) -> Tensor:
        flat = {"rows": rows[0], "hidden_states": hidden_states, **more.pop("added", {}), **more}
        self.seen = {name: value.dtype for name, value in flat.items()}
        return self.blocks[0](self.inward(hidden_states))


def given() -> dict[str, Any]:
    more = {"text": torch.ones(1, 3), "time": torch.ones(1), "mask": torch.ones(1, 3, dtype=torch.bool)}
    nested = {"added": {"time_ids": torch.ones(1, 6), "pooled": torch.ones(1, 3)}}
    return {"rows": [torch.ones(2, 2)], "hidden_states": torch.ones(1, 1, 4, 4), **more, **nested}


def test_states_are_cast_and_times_places_and_masks_are_not():
    model = Model()
    with cast_once(model, ARCH, HALF):
        assert model(**given()).dtype == HALF
    full = dict.fromkeys(("hidden_states", "time", "time_ids"), torch.float32)
    assert model.seen == full | dict.fromkeys(("rows", "text", "pooled"), HALF) | {"mask": torch.bool}


def test_it_can_be_taken_off():
    model = Model()
    cast_once(model, ARCH, HALF).close()
    with pytest.raises(RuntimeError, match="type"):
        model(**given())


def test_layers_in_blocks_are_left_alone():
    model = Model()
    with cast_once(model, ARCH, HALF), pytest.raises(RuntimeError, match="type"):
        model.blocks[0](torch.ones(1, 4))
