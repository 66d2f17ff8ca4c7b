"""One training step on the meta device: nothing is computed, everything that would live is counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limner.nn.arch import ArchSpec, hoistable
from limner.nn.layers.quantized_linear import QuantizedLinear
from limner.nn.memory.checkpointing import Checkpoint
from limner.nn.memory.plan import Attention, Products
from limner.planning.kernels import Kernels, Report, imitated
from limner.planning.tracker import GRANULE, Event, Segment, Tracker

AUTOCAST = torch.autocast
HEAD = ""
"""Name of the segments that belong to no block."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a step is traced on. The default is a GPU that is not there."""

    attention: Attention = "auto"
    autocast: torch.dtype | None = None
    """What autocast computes in; None when it is off."""
    device: str = "meta"
    """Where the models are: "meta", or the type of the device of a step that is run for real."""
    granule: int = GRANULE
    """Of the allocator, bytes."""
    kernels: Kernels | None = "cuda"
    """Whose kernels are imitated; None: those of the device itself run."""
    matmul_precision: Products = "full"
    """How the frozen layers in the denoiser's blocks multiply."""

    @contextmanager
    def imitated(self, report: Report) -> Iterator[None]:
        """A context in which its kernels are imitated for tensors on it, in this thread."""
        with ExitStack() as stack:
            stack.enter_context(_autocast_on_meta())
            if self.kernels is not None:
                kernels = imitated(self.kernels, self.attention, self.autocast, report, self.device)
                stack.enter_context(kernels)
            yield


@contextmanager
def _autocast_on_meta() -> Iterator[None]:
    """While entered, a model may turn autocast off where there are no numbers: torch knows none on meta."""

    def none_on_meta(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == "meta" else AUTOCAST(device_type, *args, **kwargs)

    torch.autocast = none_on_meta  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.autocast = AUTOCAST  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Trace:
    """What a step was. Bytes."""

    peak: int
    causes: Mapping[str, int]
    """What the peak is made of: weights, modulations, adapter, optimizer, gradients, activations."""
    start_bytes: int
    """Alive before the step: weights, adapter, state of the optimizer."""
    saved: int
    """Alive when the forward pass has ended."""
    leftover: int
    """Made by the step and alive when it has ended, gradients aside: constants that a model keeps."""
    idle: frozenset[int]
    """``id`` of every trained tensor that no gradient came to."""
    segments: tuple[Segment, ...]
    """In running order."""
    events: tuple[Event, ...]
    """Every birth and death: what ``benchmarks/memory/allocator.py`` replays."""

    def of(self, phase: str) -> dict[str, Segment]:
        """The segment of each block in "forward" or "backward", in running order."""
        return {
            segment.name: segment
            for segment in self.segments
            if segment.phase == phase and segment.name != HEAD
        }


GPU = Machine()


def trace(
    step: Callable[[], Tensor],
    models: Mapping[str, nn.Module],
    blocks: Mapping[str, nn.Module],
    *,
    arch: ArchSpec | None = None,
    state: int = 0,
    constants: int = 0,
    machine: Machine = GPU,
) -> Trace:
    """Run a step under watch.

    Args:
        step: Makes the inputs, runs the live units and returns the loss, a scalar.
        models: Everything that is loaded while training, adapters attached.
        blocks: The repeated blocks by name, in running order.
        arch: Names the modulations, to count them apart.
        state: Bytes of the optimizer's state, which is there from the second step on.
        constants: Bytes that models have kept since a step before, where nobody finds them.
        machine: What it is run on.
    """
    tracker = Tracker(machine.device, machine.granule)
    with ExitStack() as stack:
        stack.enter_context(tracker)
        _watch(tracker, models, arch)
        tracker.hold(state, "optimizer")
        tracker.hold(constants, "weights")
        gradient_ids: set[int] = set()
        for name, block in blocks.items():
            stack.enter_context(_bounds(tracker, name, block))
        for parameter in _trained(models):
            handle = parameter.register_post_accumulate_grad_hook(partial(_gradient, tracker, gradient_ids))
            stack.callback(handle.remove)
        for layer in _frozen(models):
            handle = layer.register_forward_hook(partial(_from_python, tracker))
            stack.callback(handle.remove)
        stack.enter_context(machine.imitated(tracker.did))
        start_bytes = tracker.alive
        tracker.segment(HEAD, "forward")
        loss = step()
        saved = tracker.alive
        tracker.segment(HEAD, "backward")
        loss.backward()
        del loss
        tracker.segment(HEAD, "after")
        leftover = tracker.alive - start_bytes - tracker.causes["gradients"]
    idle = frozenset(map(id, _trained(models))) - gradient_ids
    for parameter in _trained(models):
        parameter.grad = None
    return Trace(
        tracker.peak,
        tracker.causes_at_peak,
        start_bytes,
        saved,
        leftover,
        idle,
        tuple(tracker.segments),
        tuple(tracker.events),
    )


def _trained(models: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    return [
        parameter for model in models.values() for parameter in model.parameters() if parameter.requires_grad
    ]


def _gradient(tracker: Tracker, gradient_ids: set[int], parameter: Tensor) -> None:
    gradient_ids.add(id(parameter))
    if parameter.grad is not None:
        tracker.rename(parameter.grad, "gradients")


def _frozen(models: Mapping[str, nn.Module]) -> list[QuantizedLinear]:
    return [
        module
        for model in models.values()
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
    ]


def _from_python(tracker: Tracker, _: nn.Module, __: Any, out: Tensor) -> None:
    """Tell, when the time comes, of the gradient that the backward pass of a frozen layer gives in Python."""
    if out.grad_fn is not None:
        out.grad_fn.register_hook(lambda gradients, _: tracker.seen_by_python(gradients[0]))


def _watch(tracker: Tracker, models: Mapping[str, nn.Module], arch: ArchSpec | None) -> None:
    """Count what the models hold, plain tensors that are neither parameters nor buffers among it."""
    for model in models.values():
        for module in model.modules():
            tracker.watch(plain(module), "weights")
        tracker.watch(model.buffers(), "weights")
        parameters = list(model.parameters())
        tracker.watch((parameter for parameter in parameters if not parameter.requires_grad), "weights")
        tracker.watch((parameter for parameter in parameters if parameter.requires_grad), "adapter")
        for layer in (hoistable(model, arch) if arch else {}).values():
            frozen = (parameter for parameter in layer.parameters() if not parameter.requires_grad)
            tracker.watch(frozen, "modulations")


MODULE_DICTS = frozenset({"_parameters", "_buffers", "_modules"})
SIMPLE = frozenset({bool, int, float, str, type(None)})


def plain(module: nn.Module) -> list[Tensor]:
    """Tensors that a module holds as attributes or in lists and dicts, without having registered them."""
    tensors: list[Tensor] = []
    for name, value in vars(module).items():
        if name in MODULE_DICTS or type(value) in SIMPLE:
            continue
        items = value.values() if isinstance(value, dict) else value
        candidates = items if isinstance(value, (list, tuple, dict)) else (value,)
        tensors += [item for item in candidates if isinstance(item, Tensor)]
    return tensors


@contextmanager
def _bounds(tracker: Tracker, name: str, block: nn.Module) -> Iterator[None]:
    """Begin a segment where a block begins and where it ends, in both directions."""

    def enter(*_: Any) -> None:
        if not _differentiating():
            tracker.segment(name, "forward")

    def leave(_: nn.Module, __: Any, out: Any) -> None:
        if _differentiating():
            return
        tracker.segment(HEAD, "forward")
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(back)

    def back(_: Tensor) -> None:
        if tracker.now.name != name:  # a block with two outputs begins with the gradient that comes first
            tracker.segment(name, "backward")

    handles = block.register_forward_pre_hook(enter), block.register_forward_hook(leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differentiating() -> bool:
    """Whether a backward pass is under way: what runs then is a recomputation."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def again(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks that keep their inputs and are computed again in the backward pass."""
    for block in blocks:
        block.forward = Checkpoint(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
