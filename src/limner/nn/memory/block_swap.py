"""Blocks whose frozen weights live on the host and come to the device when they are due, and never go back.

A few slots of device memory are shared by all streamed blocks. While one block computes, the next one is on
its way: upwards in the forward pass, downwards in the backward pass, where a block that is computed again and
its gradient share one transfer. On the CPU the same schedule runs with slots of its own, to be proved there.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks

from limner.errors import BrokenGraph
from limner.nn.memory.checkpointing import Run, again
from limner.nn.memory.host_buffer import HostBuffer


class CopyStream:
    """Copies from host to slots, beside the computation where the device can.

    Args:
        device: Of the slots.
        in_thread: Copy in a thread: for memory that the device cannot read by itself, such as a file.
    """

    def __init__(self, device: torch.device, *, in_thread: bool) -> None:
        """See the class."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.worker = ThreadPoolExecutor(1, "limner-weights") if in_thread else None

    def copy(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        """Begin to copy. Gives what the computation calls before it reads the target."""
        free = None
        if self.stream is not None:  # whatever still reads the slot has been launched before
            free = torch.cuda.current_stream(self.device).record_event()
        if self.worker is None:
            return self._copy(source, target, free)
        future: Future[Callable[[], None]] = self.worker.submit(self._copy, source, target, free)
        return lambda: future.result()()

    def _copy(self, source: Tensor, target: Tensor, free: Any) -> Callable[[], None]:
        if self.stream is None:
            target.copy_(source)
            return _nothing
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(free)
            target.copy_(source, non_blocking=True)
            event = self.stream.record_event()
        return lambda: torch.cuda.current_stream(self.device).wait_event(event)

    def close(self) -> None:
        """Let what is under way finish."""
        if self.worker is not None:
            self.worker.shutdown()
        if self.stream is not None:
            self.stream.synchronize()


def _nothing() -> None:
    """On the CPU a copy is done when it returns."""


@dataclass(eq=False)
class Slot:
    """Room for one block on the device."""

    room: Tensor
    block: int | None = None
    """Which streamed block is in it, or on its way."""
    busy: bool = False
    """Whether a gradient that is under way reads it."""
    wait_for_copy: Callable[[], None] = _nothing


@dataclass
class SwapStats:
    """What streaming did, for those who wonder where the time goes."""

    copies: int = 0
    late: int = 0
    """Copies that had not begun when their block was due."""


@dataclass(frozen=True)
class _Ref:
    """A weight that a gradient will need: where in its block, not where in memory."""

    block: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


class BlockSwapper:
    """The slots, and who is in them.

    Args:
        buffers: The frozen tensors of the streamed blocks, in running order.
        copy_stream: How they come.
        slots: How many blocks' worth of device memory, at least 2.
    """

    def __init__(self, buffers: Sequence[HostBuffer], copy_stream: CopyStream, slots: int) -> None:
        """See the class."""
        self.size = max(buffer.bytes for buffer in buffers)
        """Bytes of a slot."""
        self.buffers, self.copy_stream, self.stats = buffers, copy_stream, SwapStats()
        self.slots = [Slot(self._room(self.size)) for _ in range(slots)]
        self.by_pointer = {slot.room.data_ptr(): slot for slot in self.slots}
        self.views: dict[tuple[int, int], list[Tensor]] = {}
        self.newest = -1

    def need(self, block: int, *, upwards: bool, wraps: bool = False) -> Slot:
        """Have a block on the device before the computation goes on, and its neighbours on their way.

        Args:
            block: Which.
            upwards: Whether those after it are due next, or those before it.
            wraps: Whether the first is due after the last, because no gradient comes between.

        Raises:
            BrokenGraph: All slots are read by gradients of other blocks.
        """
        # The block itself: it is in a slot or on its way, unless the order of blocks was not foreseen.
        slot = self.holder(block)
        if slot is None:
            self.stats.late += 1
            slot = self._fetch(block, self._due(block, upwards=upwards, wraps=wraps))
            if slot is None:
                raise BrokenGraph(
                    f"Streamed block {block} is due, but all {len(self.slots)} slots are read by gradients "
                    "of others. Set slots one higher, and report this: it should not happen."
                )
        # Its neighbours: their copies run while this block computes. Only then wait for the block's own copy.
        upcoming = self._due(block, upwards=upwards, wraps=wraps)
        for other in upcoming[1:]:
            if self.holder(other) is None:
                self._fetch(other, upcoming)
        slot.wait_for_copy()
        return slot

    def holder(self, block: int) -> Slot | None:
        """The slot that a block is in, or on its way to."""
        return next((slot for slot in self.slots if slot.block == block), None)

    def fresh(self, arguments: Sequence[Any]) -> list[Tensor]:
        """Those of a block's arguments that were made since the last block's, and not for all blocks at once.

        Their gradients are complete when the block's own are. Aliases of them would tell so, too, but change
        the order in which gradients are summed, and so their last bits.
        """
        tensors = [
            tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.grad_fn is not None
        ]
        numbers = [tensor.grad_fn._sequence_nr() for tensor in tensors if tensor.grad_fn is not None]
        newest, self.newest = self.newest, max([self.newest, *numbers])
        return [tensor for tensor, number in zip(tensors, numbers, strict=True) if number > newest]

    def begin(self) -> None:
        """A forward pass: no gradient is under way."""
        for slot in self.slots:
            slot.busy = False

    def _due(self, block: int, *, upwards: bool, wraps: bool) -> list[int]:
        """The blocks that the slots should hold, soonest first."""
        order = [block + (step if upwards else -step) for step in range(len(self.slots))]
        if wraps:
            order = [number % len(self.buffers) for number in order]
        return [number for number in dict.fromkeys(order) if 0 <= number < len(self.buffers)]

    def _fetch(self, block: int, upcoming: Sequence[int]) -> Slot | None:
        """Begin to bring a block in place of one that is not due, if there is one."""
        # A slot is spare if no gradient reads it and its block is not due soon; an empty one is taken first.
        spare = [slot for slot in self.slots if not slot.busy and slot.block not in upcoming]
        if not spare:
            return None
        slot = min(spare, key=lambda candidate: candidate.block is not None)
        if slot.block is not None:
            self.buffers[slot.block].leave()  # its modules hold their tensors on the host again
        if not len(slot.room) and self.size:
            slot.room = self._room(self.size)
            self.by_pointer[slot.room.data_ptr()] = slot
        buffer, number = self.buffers[block], self.slots.index(slot)
        slot.block, slot.wait_for_copy = block, self.copy_stream.copy(buffer.rest, slot.room[: buffer.bytes])
        if (block, number) not in self.views:
            self.views[block, number] = buffer.over(slot.room)
        buffer.put(
            self.views[block, number]
        )  # the modules see the slot, though the copy may not have arrived
        self.stats.copies += 1
        return slot

    def pack(self, tensor: Tensor) -> Tensor | _Ref:
        """What autograd keeps of a tensor: of a weight, only which it is."""
        slot = self.by_pointer.get(tensor.untyped_storage().data_ptr())
        if slot is None or slot.block is None:
            return tensor
        size, stride = tuple(tensor.shape), tuple(tensor.stride())
        return _Ref(slot.block, tensor.dtype, size, stride, int(tensor.storage_offset()))

    def unpack(self, saved_tensor: Tensor | _Ref) -> Tensor:
        """The tensor again, brought back where it has gone."""
        if isinstance(saved_tensor, Tensor):
            return saved_tensor
        room = self.need(saved_tensor.block, upwards=False).room
        whole = room[: len(room) // saved_tensor.dtype.itemsize * saved_tensor.dtype.itemsize].view(
            saved_tensor.dtype
        )
        return whole.as_strided(saved_tensor.size, saved_tensor.stride, saved_tensor.start)

    def _room(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.copy_stream.device)

    def vacate(self) -> None:
        """Leave the weights on the host, and give the slots back until the next block is due.

        Only where no gradient is under way.
        """
        for slot in self.slots:
            slot.wait_for_copy()  # what is on its way must not land in memory that others have by then
            slot.block, slot.room, slot.wait_for_copy = None, self._room(0), _nothing
        for buffer in self.buffers:
            buffer.leave()
        self.views.clear()
        self.by_pointer.clear()

    def close(self) -> None:
        """Leave the weights on the host, and give the slots back."""
        for buffer in self.buffers:
            buffer.leave()
        self.slots.clear()
        self.views.clear()


@dataclass
class SwappedBlock:
    """Runs a block whose weights come when they are due."""

    run: Run
    swapper: BlockSwapper
    block: int
    """Which of the streamed ones it is."""
    checkpointed: bool
    """Whether it is computed again for its gradient."""
    frees_slot: bool = False
    """Whether someone will tell when its gradient is done."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives; the same to the bit."""
        if (
            again()
        ):  # backward: the second run and the gradient share one transfer, in falling order of blocks
            slot = self.swapper.need(self.block, upwards=False)
            slot.busy = self.frees_slot  # until its gradient is done
            return self.run(*args, **kwargs)
        self.swapper.begin()
        gradient = torch.is_grad_enabled()
        self.swapper.need(self.block, upwards=True, wraps=not gradient)
        if not gradient or self.checkpointed:
            return self.run(*args, **kwargs)
        # not computed again: its gradient finds each weight by its block, and has that brought back
        with saved_tensors_hooks(self.swapper.pack, self.swapper.unpack):
            return self.run(*args, **kwargs)

    def watch(self, run: Run) -> Run:
        """Around a checkpointed block: tells when its gradient is done, and its slot may go to another."""

        def run_and_watch(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                fresh = self.swapper.fresh([*args, *kwargs.values()])
                self.frees_slot = bool(fresh)
                if fresh:
                    register_multi_grad_hook(fresh, lambda _: self._free())
            return run(*args, **kwargs)

        return run_and_watch

    def _free(self) -> None:
        slot = self.swapper.holder(self.block)
        if slot is not None:
            slot.busy = False
