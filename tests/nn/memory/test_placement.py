from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.errors import DiskFull
from limner.nn.arch import ArchSpec
from limner.nn.memory import host_buffer
from limner.nn.memory.placement import Placement

ARCH = ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.gate", "gate"))


def _model() -> Any:
    model: Any = nn.Module()
    model.blocks = nn.ModuleList(
        nn.ModuleDict({"gate": nn.Linear(4, 4), "wide": nn.Linear(4, 8)}) for _ in "ab"
    )
    model.gate, model.first = nn.Linear(4, 4), nn.Linear(4, 4)
    return model.requires_grad_(requires_grad=False)


def _filed(tensor: Tensor) -> bool:
    return Path(tensor.untyped_storage().filename or "").name.startswith(host_buffer.PREFIX)


def test_streamed_blocks_and_modulations_stay_and_nothing_else() -> None:
    model = _model()
    kept = Placement(model, ARCH, streamed=[1], hoist=True)
    one, other = model.blocks
    assert all(layer in kept for layer in (one.gate, other.gate, other.wide, model.gate))
    assert not any(layer in kept for layer in (one.wide, model.first))
    plain = Placement(model, ARCH)
    assert not any(layer in plain for layer in model.modules())


def test_a_part_becomes_a_file_when_the_last_of_its_tensors_has_come(tmp_path: Path) -> None:
    model = _model()
    kept = Placement(model, ARCH, streamed=[1], hoist=True, folder=tmp_path)
    block = model.blocks[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept.expect([block.wide, block.wide, block.gate, block.gate, model.first])
    for layer in (model.first, block.wide, block.gate):
        kept.took(layer)
    assert not any(map(_filed, model.state_dict().values()))
    kept.took(block.gate)
    assert _filed(block.gate.weight) and not _filed(block.wide.weight)
    kept.took(block.wide)
    assert {name for name, each in model.state_dict().items() if _filed(each)} == {
        f"blocks.1.{layer}.{name}" for layer in ("gate", "wide") for name in ("weight", "bias")
    }
    assert block.gate.weight.untyped_storage().data_ptr() != block.wide.weight.untyped_storage().data_ptr()
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_in_memory_nothing_is_moved_and_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    weight = model.gate.weight
    for folder in (None, tmp_path):
        kept = Placement(model, ARCH, hoist=True, folder=folder)
        kept.expect([model.gate])
        if folder:
            monkeypatch.setattr(host_buffer, "require_space", _full)
            with pytest.raises(DiskFull):
                kept.took(model.gate)
        else:
            kept.took(model.gate)
        assert model.gate.weight is weight


def _full(*_: Any) -> None:
    raise DiskFull("No room. Free some.")
