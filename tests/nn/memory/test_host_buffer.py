from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limner.errors import BrokenGraph, DiskFull, LimnerError
from limner.nn.memory import host_buffer
from limner.nn.memory.host_buffer import ALIGNMENT, HostBuffer, Mapped, Pinned, held, ordinary
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
