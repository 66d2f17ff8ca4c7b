"""Which kernel computes attention: the fastest that the device has for each shape, found by trying them."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from limner.errors import BadRecipe
from limner.nn.memory.checkpointing import Run

Kernel = Literal["auto", "flash", "cudnn", "efficient", "math"]
KERNELS: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""By the names of a plan. The last one computes anything, slowly, with T x T numbers in memory."""
ON_CPU = ("flash", "math")
TRIES = 3
"""Passes forward and backward that are timed of each kernel, after one that is not."""


@dataclass(frozen=True)
class Call:
    """One computation of attention, but for its numbers."""

    shapes: tuple[tuple[int, ...], ...]
    """Of queries, keys, values: (B, heads, tokens, width)."""
    dtype: torch.dtype
    device: torch.device
    masked: tuple[int, ...] | None
    """Shape of the mask, if there is one."""
    gradient: bool
    """Whether a gradient will be asked for."""

    def tensors(self) -> tuple[list[Tensor], Tensor | None]:
        """Random queries, keys and values, and a mask that hides nothing."""
        like = {"dtype": self.dtype, "device": self.device, "requires_grad": self.gradient}
        mask = None if self.masked is None else torch.zeros(self.masked, dtype=self.dtype, device=self.device)
        return [torch.randn(shape, **like) for shape in self.shapes], mask

    def __str__(self) -> str:
        """For people."""
        shape = " x ".join(str(size) for size in self.shapes[0])
        return f"{shape} in {str(self.dtype).removeprefix('torch.')} on {self.device}"


class _Watch(TorchFunctionMode):
    """Writes down every computation of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        if func is scaled_dot_product_attention:
            query, key, value = (
                arguments[name] if name in arguments else args[position]
                for position, name in enumerate(("query", "key", "value"))
            )
            mask = arguments.get("attn_mask", args[3] if len(args) > 3 else None)
            shapes = tuple(tuple(tensor.shape) for tensor in (query, key, value))
            masked = None if mask is None else tuple(mask.shape)
            self.calls.append(Call(shapes, query.dtype, query.device, masked, self.gradient))
        return func(*args, **arguments)

    gradient = False


class Attention:
    """Has blocks compute their attention by a kernel that was chosen, or by the fastest.

    Each new size of arguments is learned once: the block runs without gradient, its calls are written down,
    and the kernels that can compute them are timed.

    Args:
        kernel: Its name; auto tries them all.
        device: Where the blocks compute.

    Raises:
        BadRecipe: The device has no such kernel.
    """

    def __init__(self, kernel: Kernel, device: torch.device) -> None:
        """See the class."""
        self.kernel, self.device = kernel, device
        self.seconds: dict[Call, dict[str, float]] = {}
        """What each kernel took for each call, forward and backward, in seconds."""
        self._orders: dict[Any, tuple[str, ...]] = {}
        if device.type == "cpu" and kernel not in {"auto", *ON_CPU}:
            raise BadRecipe(
                f"The attention kernel {kernel} needs a GPU; a CPU has {', '.join(ON_CPU)}. Set auto."
            )

    @property
    def idle(self) -> bool:
        """Whether there is nothing to choose: torch's only fast kernel on a CPU is what it takes itself."""
        return self.kernel == "auto" and self.device.type != "cuda"

    def within(self, run: Run, kind: str) -> Run:
        """Around what computes attention, the second time as the first; blocks of a ``kind`` are alike."""
        if self.idle:
            return run

        def chosen(*args: Any, **kwargs: Any) -> Any:
            order = self._orders[self._key(kind, args, kwargs)]
            with sdpa_kernel([KERNELS[name] for name in order], set_priority=True):
                return run(*args, **kwargs)

        return chosen

    def before(self, run: Run, bare: Run, kind: str) -> Run:
        """Around all else that is done to a block: learns what is not known yet by running it ``bare``."""
        if self.idle:
            return run

        def learned(*args: Any, **kwargs: Any) -> Any:
            key = self._key(kind, args, kwargs)
            if key not in self._orders:
                self._orders[key] = self._learn(bare, args, kwargs)
            return run(*args, **kwargs)

        return learned

    def said(self) -> str:
        """For people: which kernels are used, and what they took."""
        if self.idle:
            return f"attention: torch's own kernel for {self.device.type}"
        lines = [f"attention: {self.kernel}"] if self.kernel != "auto" else []
        for call, seconds in self.seconds.items():
            timings = ", ".join(
                f"{name} {took * 1e3:.2f} ms" for name, took in sorted(seconds.items(), key=_took)
            )
            lines.append(f"attention of {call}: {timings}")
        return "\n".join(lines)

    def _key(self, kind: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        tensors = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
        return kind, torch.is_grad_enabled(), *((tensor.shape, tensor.dtype) for tensor in tensors)

    def _learn(self, bare: Run, args: Any, kwargs: Any) -> tuple[str, ...]:
        watch = _Watch()
        watch.gradient = torch.is_grad_enabled()
        with torch.no_grad(), watch:
            bare(*args, **kwargs)
        calls = list(dict.fromkeys(watch.calls))
        if not calls:
            return ("math",)
        largest = max(calls, key=lambda call: call.shapes[0][2] * call.shapes[1][2])
        if self.kernel != "auto":
            for call in calls:
                self._require(call)
            return (self.kernel,)
        for call in calls:
            if call not in self.seconds:
                self.seconds[call] = timed(call)
        fastest = sorted(self.seconds[largest].items(), key=_took)
        return (*(name for name, _ in fastest if name != "math"), "math")

    def _require(self, call: Call) -> None:
        if not usable(self.kernel, call):
            alternatives = ", ".join(name for name in KERNELS if usable(name, call)) or "none"
            raise BadRecipe(
                f"The attention kernel {self.kernel} cannot compute {call}. Set auto, or one that "
                f"can: {alternatives}."
            )


def _took(item: tuple[str, float]) -> float:
    return item[1]


def usable(name: str, call: Call) -> bool:
    """Whether a kernel computes a call on its device."""
    small = [(*shape[:2], min(shape[2], 64), shape[3]) for shape in call.shapes]
    masked = None if call.masked is None else tuple(min(size, 64) for size in call.masked)
    return _passes(name, Call(tuple(small), call.dtype, call.device, masked, call.gradient)) is not None


def timed(call: Call) -> dict[str, float]:
    """Seconds that each kernel takes for a call, forward and backward; those that cannot are left out.

    Math is not tried where another can: it would need memory that the plan has given to others.
    """
    timings: dict[str, float] = {}
    for name in KERNELS:
        if name == "math" and timings:
            continue
        step = _passes(name, call)
        if step is not None:
            timings[name] = _seconds(step, call.device)
    if call.device.type == "cuda":
        torch.cuda.empty_cache()
    return timings


def _passes(name: str, call: Call) -> Callable[[], None] | None:
    """One pass forward and backward, tried once; None where the kernel cannot compute it."""
    inputs, mask = call.tensors()

    def step() -> None:
        with torch.set_grad_enabled(call.gradient), sdpa_kernel(KERNELS[name]):
            output = scaled_dot_product_attention(*inputs, attn_mask=mask)
            if call.gradient:
                torch.autograd.grad(output, inputs, output)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says at length why a kernel cannot
            step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # "No available kernel": torch has no name of its own for it
        return None
    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(TRIES):
            step()
        return (time.perf_counter() - start) / TRIES
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(TRIES):
        step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / TRIES
