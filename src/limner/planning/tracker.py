"""What lives on a device while operations run: every storage from birth to death, and the work of each."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GRANULE = 512
"""Bytes that CUDA's caching allocator rounds every request up to (``c10``, ``kMinBlockSize``)."""

aten = torch.ops.aten
IDLE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
IDLE |= {aten.detach, aten.lift_fresh, aten.lift, aten.alias}
"""Operations that launch nothing."""
FUSED = {packet for name, packet in vars(aten).items() if "scaled_dot_product" in name}
"""Attention, whose work the emulated kernels report themselves."""

Event = tuple[int, int]
"""A storage's number, and its bytes: positive when it is born, negative when it dies."""


@dataclass
class Segment:
    """A stretch of a step, such as the forward pass of one block."""

    name: str
    """Of the block; "" for what stands outside all of them."""
    phase: str
    """"forward" or "backward", whose blocks that are recomputed are part of it."""
    start: int
    """Bytes alive when it begins."""
    peak: int
    """Most bytes alive while it lasts."""
    gradients: int = 0
    """Of ``start``, gradients of what is trained."""
    gemm: float = 0
    w8a8: float = 0
    coding: float = 0
    """Bytes, of ``traffic``, of making codes at work and of scaling what comes of them."""
    attention: float = 0
    traffic: float = 0
    kernels: int = 0
    attention_kept: float = 0
    """Bytes of what the attention gave and its backward pass reads."""


class Tracker(TorchDispatchMode):
    """Counts the bytes of one device while it is entered, by cause and by segment.

    Storages are followed by weak references, so whatever keeps one alive (autograd, a checkpoint, an
    optimizer) is seen to. What an operation takes and gives back inside its kernel is not.

    Args:
        device: Type of the device, "meta" for a step that computes nothing.
        granule: Every size is rounded up to a multiple of it, bytes.
    """

    def __init__(self, device: str = "meta", granule: int = GRANULE) -> None:
        super().__init__()
        _alone()  # found out now: inside an operation nothing can be differentiated
        self.device, self.granule = device, granule
        self.alive, self.peak = 0, 0
        self.causes: Counter[str] = Counter()
        self.causes_at_peak: dict[str, int] = {}
        self.events: list[Event] = []
        self.segments: list[Segment] = []
        self.cause = "activations"
        """What a storage counts as that is born now."""
        self._sizes: dict[int, tuple[int, str]] = {}
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._seen_by_python: set[int] = set()
        self._next = 0
        self.segment("", "before")

    def segment(self, name: str, phase: str) -> None:
        """Everything from here on belongs to a new segment."""
        self.now = Segment(name, phase, self.alive, self.alive, self.causes["gradients"])
        self.segments.append(self.now)

    def watch(self, tensors: Iterable[Tensor], cause: str) -> None:
        """Count tensors that were there before, and name those already counted."""
        for tensor in tensors:
            if tensor.device.type == self.device:
                self._note(tensor, cause)
                self.rename(tensor, cause)

    def rename(self, tensor: Tensor, cause: str) -> None:
        """Count the storage of a tensor as something else from now on."""
        entry = self._storages.get(tensor.untyped_storage()._cdata)
        if entry is None or entry[1] not in self._sizes:
            return
        size, before = self._sizes[entry[1]]
        self._sizes[entry[1]] = (size, cause)
        self.causes[before] -= size
        self.causes[cause] += size

    def hold(self, size: int, cause: str) -> None:
        """Count bytes that no tensor here stands for, for good."""
        self._born(-(-size // self.granule) * self.granule, cause)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it made and did."""
        del types
        with (
            torch._C.DisableTorchFunction()
        ):  # modes need not hear of every size that is read here: it is slow
            return func(*args, **(kwargs or {})) if func.is_view else self._counted(func, args, kwargs)

    def _counted(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        if func is SUM and _summing(args, kwargs) and any(map(self._free, args)):
            first, second = args
            return first.add_(second) if self._free(first) else second.add_(first)
        if self.device == "meta":
            out, work = _again(func, args, kwargs or {})
        else:
            out = func(*args, **(kwargs or {}))
            work = _work(func, args, kwargs or {}, out)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._note(tensor, self.cause)
        if work is not None:
            self.now.kernels += 1
            self.now.gemm += work[0]
            self.now.traffic += work[1]
        return out

    def did(
        self,
        *,
        attention: float = 0,
        w8a8: float = 0,
        coding: float = 0,
        traffic: float = 0,
        output_bytes: float = 0,
    ) -> None:
        """Count the work of a kernel that stands for no operation of torch: FLOPs, bytes, bytes of output."""
        self.now.coding += coding
        self.now.attention += attention
        self.now.w8a8 += w8a8
        self.now.traffic += traffic
        self.now.attention_kept += output_bytes
        self.now.kernels += 1

    def _free(self, tensor: Tensor) -> bool:
        """Whether a gradient may be written to: it is dense, and autograd alone holds it."""
        if _span(tensor) != tensor.numel() or tensor.untyped_storage()._cdata in self._seen_by_python:
            return False
        return all(holders <= minimum for holders, minimum in zip(_holders(tensor), _alone(), strict=True))

    def seen_by_python(self, gradient: Tensor) -> None:
        """Say that a gradient came out of Python: an object there holds it, so it is never written to."""
        self._seen_by_python.add(gradient.untyped_storage()._cdata)

    def _note(self, tensor: Tensor, cause: str) -> None:
        storage = tensor.untyped_storage()
        storage_id = storage._cdata
        entry = self._storages.get(storage_id)
        if entry is not None and entry[0]() is not None:
            return
        key = self._born(-(-storage.nbytes() // self.granule) * self.granule, cause)

        def gone(reference: Any) -> None:
            if storage_id in self._storages and self._storages[storage_id][0] is reference:
                del self._storages[storage_id]
                self._seen_by_python.discard(storage_id)
            self._dies(key)

        self._storages[storage_id] = (weakref.ref(storage, gone), key)

    def _born(self, size: int, cause: str) -> int:
        self._next += 1
        self._sizes[self._next] = (size, cause)
        self.alive += size
        self.causes[cause] += size
        self.events.append((self._next, size))
        if self.alive > self.now.peak:
            self.now.peak = self.alive
        if self.alive > self.peak:
            self.peak = self.alive
            self.causes_at_peak = dict(self.causes)
        return self._next

    def _dies(self, key: int) -> None:
        size, cause = self._sizes.pop(key)
        self.alive -= size
        self.causes[cause] -= size
        self.events.append((key, -size))


SUM = aten.add.Tensor


def _summing(args: Any, kwargs: Any) -> bool:
    """Whether this is autograd summing two gradients of one tensor.

    It sums in the place of one that nobody else holds (``InputBuffer.cpp``), except under such a mode.
    """
    if kwargs or len(args) != 2 or torch.is_grad_enabled() or torch._C._current_graph_task_id() == -1:
        return False
    first, second = args
    are_tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    return are_tensors and first.shape == second.shape and first.dtype == second.dtype


def _holders(tensor: Tensor) -> tuple[int, int]:
    """How many hold a tensor, and how many its storage."""
    count: Any = tensor
    return count._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


@cache
def _alone() -> tuple[int, int]:
    """What :func:`_holders` says of a gradient that autograd alone holds, found out by an example."""
    probe = _Probe()
    x = torch.ones(2, requires_grad=True)
    with probe:
        (x * 2 + x * 3).sum().backward()
    return probe.holders[0]


class _Probe(TorchDispatchMode):
    """Looks at the first factor of every sum in a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is SUM and not torch.is_grad_enabled():
            self.holders.append(_holders(args[0]))
        return func(*args, **(kwargs or {}))


OutputShape = tuple[torch.Size, tuple[int, ...], torch.dtype] | None
"""Size, strides and dtype of an output on the meta device."""
OpWork = tuple[float, float] | None
"""FLOPs of products and bytes of everything else; None where nothing is launched."""

_op_cache: dict[Any, tuple[list[OutputShape], bool, OpWork]] = {}
"""What operations made of what they were given: the blocks of a denoiser are alike, and torch works out the
shapes of some operations in Python, which takes longer than all the rest."""


def _again(func: Any, args: Any, kwargs: Any) -> tuple[Any, OpWork]:
    """Run an operation on meta tensors, or remember what it gave the last time."""
    key = (func, _key(args), _key(tuple(kwargs.items())))
    if entry := _op_cache.get(key):
        shapes, single, work = entry
        fresh = [
            shape and torch.empty_strided(shape[0], shape[1], dtype=shape[2], device="meta")
            for shape in shapes
        ]
        return (fresh[0] if single else tuple(fresh)), work
    out = func(*args, **kwargs)
    work = _work(func, args, kwargs, out)
    single = isinstance(out, Tensor)
    parts = [out] if single else list(out) if isinstance(out, (list, tuple)) else []
    if parts and _plain(func) and all(part is None or _whole(part) for part in parts) and _new(parts, args):
        shapes = [part if part is None else (part.shape, part.stride(), part.dtype) for part in parts]
        _op_cache[key] = (shapes, single, work)
    return out, work


def _key(value: Any) -> Any:
    """Everything that the shape of an output may depend on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, (tuple, list)):
        return tuple(map(_key, value))
    return type(value), value


def _plain(func: Any) -> bool:
    """Whether an operation makes new tensors, and changes or returns none that it was given."""
    schema = func._schema
    return all(argument.alias_info is None for argument in (*schema.arguments, *schema.returns))


def _new(parts: Iterable[Any], args: Iterable[Any]) -> bool:
    """Whether no output lies where an input or another one does, as that of ``_unsafe_view`` in fact does."""
    outputs, inputs = (
        [tensor.untyped_storage()._cdata for tensor in _tensors(values)] for values in (parts, args)
    )
    return len({*outputs}) == len(outputs) and not {*outputs} & {*inputs}


def _whole(value: Any) -> bool:
    """Whether a tensor on the meta device fills its storage from the start."""
    if not isinstance(value, Tensor) or not value.is_meta or value.storage_offset():
        return False
    return value.untyped_storage().nbytes() == _span(value) * value.element_size()


def _span(tensor: Tensor) -> int:
    """Numbers from the first of a tensor to its last: as many as it has, if it has no gaps and no repeats."""
    ends = ((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return sum(ends) + 1 if tensor.numel() else 0


def _work(func: Any, args: Any, kwargs: Any, out: Any) -> OpWork:
    packet = func._overloadpacket
    if packet in IDLE or packet in FUSED:
        return None
    count = flop_registry.get(packet)
    if count is not None:
        return float(count(*args, **kwargs, out_val=out)), 0.0
    inputs, outputs = _tensors(args), _tensors(out if isinstance(out, (tuple, list)) else (out,))
    return 0.0, float(sum(map(_bytes, inputs)) + sum(map(_bytes, outputs)))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, and in the lists among them."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += [item for item in value if isinstance(item, Tensor)]
    return tensors


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
