"""Frozen tensors of a module as bytes in a row on the host, to be laid over device memory when due.

What a plan keeps off the device goes there, or straight into files, while a model is read: otherwise it would
be on the host as a whole before its parts find their places, and with it all the codes that are made of its
weights, where the host may be what is short of memory.
"""

import ctypes
import errno
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph, DiskFull, LimnerError
from limner.files import draft_of, require_space
from limner.nn.arch import ArchSpec, matching

ALIGNMENT = 256
"""Bytes that each tensor starts at a multiple of: what the caching allocator of CUDA gives, too."""
PAGE = 4096
"""Bytes that a system locks at a time."""
WEIGHTS = "limner-weights"
"""Name of a file that holds weights, as long as it has one."""
Host = Callable[[int], Tensor]
"""So many bytes of host memory, (bytes,) uint8."""


@dataclass(frozen=True)
class _Entry:
    """One tensor of a module: where the module holds it, what it looks like, where its bytes start."""

    table: dict[str, Any]
    name: str
    trainable: bool
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


class HostBuffer:
    """The frozen tensors of a module, taken from it and put in a row on the host.

    Args:
        module: Whose parameters that need no gradient, and buffers, are taken, its children's too.
        host: Where they go.
        exclude: Modules inside whose own tensors stay as they are.
    """

    def __init__(self, module: nn.Module, host: Host, *, exclude: Container[nn.Module] = ()) -> None:
        """See the class."""
        self.entries: list[_Entry] = []
        tensors: list[Tensor] = []
        starts: dict[int, int] = {}
        end = 0
        # Lay the tensors out in a row, each aligned. One that two modules share has one place.
        for table, name, tensor in held(module, exclude):
            if id(tensor) not in starts:
                starts[id(tensor)] = end
                end += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
            entry = _Entry(
                table=table,
                name=name,
                trainable=isinstance(tensor, nn.Parameter),
                dtype=tensor.dtype,
                shape=tuple(tensor.shape),
                stride=_strides(tensor),
                start=starts[id(tensor)],
            )
            self.entries.append(entry)
            tensors.append(tensor)
        self.bytes = end
        # Fill the row, unless the tensors lie in a file just so already (read straight into it). Then let the
        # modules hold views of the row, so that nothing else keeps the old tensors alive.
        lain = (
            host.lain(tensors, [entry.start for entry in self.entries], end)
            if isinstance(host, Mapped)
            else None
        )
        self.rest = host(end) if lain is None else lain
        self.views = self.over(self.rest)
        for number, view in enumerate(self.views):
            if lain is None:
                view.detach().copy_(tensors[number])
        self.put(self.views)
        tensors.clear()
        if end >= MIN_BYTES:
            give_back()

    def over(self, room: Tensor) -> list[Tensor]:
        """The tensors as views of at least ``bytes`` bytes, (n,) uint8, wherever these are."""
        return [_view(room, entry) for entry in self.entries]

    def put(self, views: Sequence[Tensor]) -> None:
        """Have the modules hold these for their tensors."""
        for entry, view in zip(self.entries, views, strict=True):
            entry.table[entry.name] = view

    def leave(self) -> None:
        """Have the modules hold them on the host, where they rest."""
        self.put(self.views)


def held(module: nn.Module, exclude: Container[nn.Module] = ()) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every frozen tensor of a module: the table that holds it, its name there, itself.

    Raises:
        BrokenGraph: A tensor is of a sort that is more than its numbers.
    """
    entries: list[tuple[dict[str, Any], str, Tensor]] = []
    for owner in module.modules():
        if owner in exclude:
            continue
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is None or tensor.requires_grad:
                    continue
                if type(tensor) not in {Tensor, nn.Parameter, nn.Buffer}:
                    raise BrokenGraph(
                        f"{type(owner).__name__}.{name} is a {type(tensor).__name__}, which cannot be moved "
                        "as bytes. Store the weights in another way (limits.weights_precision), or set "
                        "streamed to 0."
                    )
                entries.append((table, name, tensor))
    return entries


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Its own where it leaves no gaps, so that kernels are chosen as before."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    dense = reach == tensor.numel()
    return tuple(tensor.stride()) if dense else tuple(torch.empty(tensor.shape, device="meta").stride())


def _view(room: Tensor, entry: _Entry) -> Tensor:
    size = math.prod(entry.shape) * entry.dtype.itemsize
    flat = room[entry.start : entry.start + size].view(entry.dtype)
    view = flat.as_strided(entry.shape, entry.stride)
    return nn.Parameter(view, requires_grad=False) if entry.trainable else view


def ordinary(size: int) -> Tensor:
    """Memory that the system may page out."""
    return torch.empty(size, dtype=torch.uint8)


class Pinned:
    """Memory that a device reads by itself: locked, by the page. torch's own grows to a power of two."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.rooms: list[Tensor] = []

    def __call__(self, size: int) -> Tensor:
        """So many bytes.

        Raises:
            LimnerError: The system locks no more memory.
        """
        whole = -(-size // PAGE) * PAGE  # pages of our own: one that two share can be locked but once
        room = torch.empty(whole + PAGE, dtype=torch.uint8)
        room = room[-room.data_ptr() % PAGE :][:whole]
        if size:
            status = _cuda().cudaHostRegister(room.data_ptr(), whole, 0)
            if int(status):
                raise LimnerError(
                    f"The system would not lock {size / 2**20:.0f} MB of memory for the device (CUDA error "
                    f"{int(status)}). Stream fewer blocks, or raise the limit of locked memory (ulimit -l)."
                )
            self.rooms.append(room)
        return room[:size]

    def close(self) -> None:
        """Unlock it all. Its numbers stay."""
        while self.rooms:
            _cuda().cudaHostUnregister(self.rooms.pop().data_ptr())


def _cuda() -> Any:
    return torch.cuda.cudart()


class Mapped:
    """Memory that is a file on disk, which goes when the last tensor on it goes.

    Args:
        folder: On a disk with room; not one that is itself memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """See the class."""
        self.folder = folder or Path(tempfile.gettempdir())

    def __call__(self, size: int) -> Tensor:
        """So many bytes.

        Raises:
            DiskFull: There is no room.
        """
        if not size:
            return ordinary(0)
        require_space(self.folder, size, "weights that stay on disk")
        with draft_of(self.folder / WEIGHTS) as path:  # unnamed once it is mapped
            with path.open("wb") as file:
                _reserve(file.fileno(), size, self.folder)
            return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)

    def lain(self, tensors: Sequence[Tensor], starts: Sequence[int], size: int) -> Tensor | None:
        """The file, (bytes,) uint8, in which tensors lie already just so; None where they lie otherwise."""
        if not size or tensors[0].device.type != "cpu":
            return None
        storage = tensors[0].untyped_storage()
        origin = storage.data_ptr()
        is_ours = Path(storage.filename or "").name == WEIGHTS and storage.nbytes() == size
        if not is_ours or any(
            tensor.untyped_storage().data_ptr() != origin or tensor.data_ptr() - origin != start
            for tensor, start in zip(tensors, starts, strict=True)
        ):
            return None
        return torch.empty(0, dtype=torch.uint8).set_(storage)


def _reserve(handle: int, size: int, folder: Path) -> None:
    """Make a file as long as it will be: a mapped file that finds the disk full kills the process."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"{folder} has no room for {size / 2**20:.0f} MB of weights. Free some space and run again."
        ) from error


OFTEN = 2**28
"""Bytes that are read between two calls."""
MIN_BYTES = 2**22
"""Bytes that are worth a call."""


def give_back() -> bool:
    """Have freed memory go back to the system; whether there was any, where this can be had at all.

    glibc keeps freed blocks below 32 MiB, in the hope to use them again: after a model has been cast or coded
    layer by layer, up to as much as it was before. Measured: benchmarks/memory/plan_host.py.
    """
    trim = _trim()
    return bool(trim and trim(0))


@cache
def _trim() -> Any:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except AttributeError:  # another C library than glibc
        return None


class Placement:
    """The parts of a model that are not for the device.

    Args:
        model: Its layers are stored as they will be; its parameters may have no data yet.
        arch: Where its blocks are.
        streamed: Which blocks, counted from 0 in running order, stay on the host.
        hoist: Whether the modulations do.
        folder: Where files go, for want of memory: each part becomes one as soon as it is whole, so that no
            more than that of it is ever in memory. None: the parts stay in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        arch: ArchSpec,
        *,
        streamed: Sequence[int] = (),
        hoist: bool = False,
        folder: Path | None = None,
    ) -> None:
        """See the class."""
        self._modulations = list(matching(model, arch.modulations).values()) if hoist else []
        self._parts: dict[nn.Module, nn.Module] = {layer: layer for layer in self._modulations}
        blocks = list(arch.blocks_of(model).values())
        for block in (blocks[number] for number in streamed):
            for layer in block.modules():
                self._parts.setdefault(layer, block)
        self._host = None if folder is None else Mapped(folder)
        self._missing: Counter[nn.Module] = Counter()

    def __contains__(self, layer: nn.Module) -> bool:
        """Whether a layer's own tensors stay on the host."""
        return layer in self._parts

    def expect(self, layers: Iterable[nn.Module]) -> None:
        """Say of each tensor that will come whose it is."""
        self._missing = Counter(self._parts[layer] for layer in layers if layer in self._parts)

    def took(self, layer: nn.Module) -> None:
        """A tensor of a layer has come.

        Raises:
            DiskFull: Its part is whole, and there is no room for it.
        """
        part = self._parts.get(layer)
        if part is None:
            return
        self._missing[part] -= 1
        if not self._missing[part] and self._host is not None:
            HostBuffer(part, self._host, exclude=() if part in self._modulations else self._modulations)
