import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph, DiskFull, LimnerError
from limner.nn.arch import ArchSpec
from limner.nn.memory import host_buffer
from limner.nn.memory.host_buffer import ALIGNMENT, HostBuffer, Mapped, Pinned, Placement, held, ordinary
from messages import raises


def _module() -> Any:
    torch.manual_seed(0)
    module = nn.Module()
    module.first, module.second = nn.Linear(3, 5), nn.Conv2d(2, 3, 3)
    module.second.weight.data = module.second.weight.data.to(memory_format=torch.channels_last)
    module.register_buffer("bytes", torch.arange(7, dtype=torch.uint8))
    module.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))
    module.requires_grad_(requires_grad=False)
    module.first.bias.requires_grad_()
    return module


def test_frozen_tensors_move_with_their_numbers_types_and_strides() -> None:
    module = _module()
    before = {name: (t.clone(), t.stride()) for name, t in module.state_dict(keep_vars=True).items()}
    packed = HostBuffer(module, ordinary)
    assert packed.bytes % ALIGNMENT == 0 and packed.rest.dtype == torch.uint8
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]
        inside = tensor.untyped_storage().data_ptr() == packed.rest.untyped_storage().data_ptr()
        assert inside == (name != "first.bias"), "what is trained stays"
    assert isinstance(module.first.weight, nn.Parameter) and not isinstance(module.bytes, nn.Parameter)


def test_a_buffer_is_laid_over_other_memory_and_back() -> None:
    module = _module()
    wanted = module.first.weight.clone()
    packed = HostBuffer(module, ordinary)
    room = torch.zeros(packed.bytes + 512, dtype=torch.uint8)
    room[: packed.bytes].copy_(packed.rest)
    packed.put(packed.over(room))
    assert torch.equal(module.first.weight, wanted)
    room.zero_()
    assert not module.first.weight.any()
    packed.leave()
    assert torch.equal(module.first.weight, wanted)


def test_tied_tensors_share_their_bytes_and_some_modules_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False), nn.Linear(64, 64))
    module.requires_grad_(requires_grad=False)
    module[1].weight = module[0].weight
    assert HostBuffer(module, ordinary, exclude=[module[2]]).bytes == 64 * 64 * 4
    assert len(held(module)) == 4


def test_gaps_are_closed_and_nothing_makes_an_empty_buffer() -> None:
    module = nn.Module()
    module.register_buffer("gaps", torch.arange(12.0).view(3, 4)[:, ::2])
    assert HostBuffer(module, ordinary).bytes == ALIGNMENT
    assert torch.equal(module.get_buffer("gaps"), torch.tensor([[0.0, 2], [4, 6], [8, 10]]))
    assert HostBuffer(nn.ReLU(), ordinary).bytes == 0


def test_a_tensor_that_is_more_than_its_numbers_is_refused() -> None:
    class Odd(torch.Tensor):
        pass

    module = nn.Module()
    module.register_buffer("odd", torch.ones(2).as_subclass(Odd))
    with raises(BrokenGraph):
        HostBuffer(module, ordinary)


def test_a_mapped_file_is_gone_at_once_and_its_numbers_are_not(tmp_path: Path) -> None:
    module = _module()
    wanted = module.first.weight.clone()
    HostBuffer(module, Mapped(tmp_path))
    assert torch.equal(module.first.weight, wanted) and not list(tmp_path.iterdir())
    assert Mapped()(0).numel() == 0


def test_a_full_disk_is_said_before_and_while_the_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskFull, match="weights that stay on disk"):
        Mapped(tmp_path)(1 << 60)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host_buffer.os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"no room for 1 MB of weights\. Free some"):
        Mapped(tmp_path)(1 << 20)


class Driver:
    """Stands for CUDA's runtime, which this machine lacks."""

    def __init__(self, answer: int) -> None:
        self.answer, self.locked = answer, []

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:  # noqa: N802  CUDA's name
        self.locked.append((place, size))
        return self.answer

    def cudaHostUnregister(self, place: int) -> None:  # noqa: N802  CUDA's name
        self.locked = [each for each in self.locked if each[0] != place]


def test_pinned_memory_is_locked_by_the_page_and_unlocked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(0)
    monkeypatch.setattr(host_buffer, "_cuda", lambda: driver)
    pinned = Pinned()
    room = pinned(1000)
    assert driver.locked == [(room.data_ptr(), 4096)] and room.data_ptr() % 4096 == 0
    assert (room.numel(), pinned(0).numel(), len(driver.locked)) == (1000, 0, 1)
    pinned.close()
    pinned.close()
    assert not driver.locked
    monkeypatch.setattr(host_buffer, "_cuda", lambda: Driver(2))
    with pytest.raises(LimnerError, match=r"would not lock 2 MB .* \(CUDA error 2\)\. Stream fewer blocks"):
        Pinned()(2 << 20)


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="says RssAnon")
def test_what_was_freed_between_things_that_stay_goes_back_to_the_system():
    if host_buffer._trim() is None:
        pytest.skip("another C library than glibc")
    torch.empty(2**24, dtype=torch.uint8)  # the C library expects such blocks from now on
    some, stay = [], []
    for _ in range(32):
        some.append(torch.ones(2**20, dtype=torch.float32))
        stay.append(torch.ones(2**10))
    full = resident()
    some.clear()
    host_buffer.give_back()
    assert resident() < full - 100 * 2**20
    assert all(each.sum() == 2**10 for each in stay)


def test_where_it_cannot_be_had_nothing_happens(monkeypatch):
    monkeypatch.setattr(host_buffer, "_trim", lambda: None)
    assert host_buffer.give_back() is False


ARCH = ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.gate", "gate"))


def _model() -> Any:
    model: Any = nn.Module()
    model.blocks = nn.ModuleList(
        nn.ModuleDict({"gate": nn.Linear(4, 4), "wide": nn.Linear(4, 8)}) for _ in "ab"
    )
    model.gate, model.first = nn.Linear(4, 4), nn.Linear(4, 4)
    return model.requires_grad_(requires_grad=False)


def _filed(tensor: Tensor) -> bool:
    return Path(tensor.untyped_storage().filename or "").name == host_buffer.WEIGHTS


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
