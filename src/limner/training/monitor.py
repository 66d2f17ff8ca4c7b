"""The device of a run: one run at a time has it; step times and memory are held against the plan."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout

from limner.assembly.resolve import device_of
from limner.errors import BadRecipe
from limner.files import human, user_cache, write_json
from limner.nn.memory.plan import CONTEXT
from limner.recipe.fields import label
from limner.recipe.schema import Limits
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir

WARM = 2
"""First steps that are not judged: kernels are chosen and memory is first asked for."""
SPAN = 9
"""Steps whose median is compared."""
SLOWER = 1.5
"""Times the usual, or the planned, seconds from which on a run is called slow."""
BOUND = {"cuda": 1.05, "cpu": 1.10, "mps": 1.10}
"""Times the planned bytes from which on the plan is called wrong."""


@dataclass
class Watch:
    """Compares steps with the plan and with the run's own start. Says each thing once.

    Attributes:
        device: Type of the device.
        seconds: Planned seconds of a step; None when nobody planned.
        bytes: Planned peak, of the device or, on a CPU, of the process; None likewise.
    """

    device: str
    seconds: float | None = None
    bytes: int | None = None
    _baseline: float | None = None
    _steps: int = 0
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=SPAN))
    _notices: set[str] = field(default_factory=set)

    def step(self, seconds: float, peak_bytes: int) -> list[str]:
        """What is to be said after a step that took ``seconds`` and left a peak of ``peak_bytes``."""
        self._steps += 1
        messages = [self._memory(peak_bytes)]
        if self._steps > WARM:
            self._last.append(seconds)
            if len(self._last) == SPAN:
                messages.append(self._time(median(self._last)))
        return [line for line in messages if line]

    def _memory(self, peak_bytes: int) -> str:
        if (
            self.bytes is None
            or peak_bytes <= self.bytes * BOUND.get(self.device, 1.1)
            or not self._once("memory")
        ):
            return ""
        excess = peak_bytes / self.bytes - 1
        return (
            f"Memory: {human(peak_bytes)} in use at most, {human(self.bytes)} planned ({excess:+.0%}). "
            "Should it run out, the run goes on with a smaller plan; --vram states a limit."
        )

    def _time(self, now: float) -> str:
        if self._baseline is None:
            self._baseline = now
            if self.seconds is not None and now > SLOWER * self.seconds and self._once("plan"):
                return (
                    f"A step takes {now:.3g} s, {self.seconds:.3g} s planned. `limner plan --calibrate` "
                    "measures this device, so that the next plan knows it."
                )
            return ""
        if now < SLOWER * self._baseline or not self._once("slow"):
            return ""
        cause = (
            " it is hot, or the driver has moved memory to the host (on Windows: switch off the system "
            "memory fallback in NVIDIA's settings, or lower --vram by 1GB)."
            if self.device == "cuda"
            else " or the machine has begun to swap (lower --batch, or set limits.micro_batch)."
        )
        return (
            f"Steps have become slow: {now:.3g} s now, {self._baseline:.3g} s at the start. Something else "
            f"uses the device,{cause}"
        )

    def _once(self, notice: str) -> bool:
        if notice in self._notices:
            return False
        self._notices.add(notice)
        return True


def peak(device: torch.device) -> int:
    """Most bytes held so far: reserved on a GPU, resident in this process on a CPU.

    Of a GPU with what plans count for the driver's context, which torch does not see.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + CONTEXT["cuda"]
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # which Windows has not

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss if sys.platform == "darwin" else peak_rss * 1024


def held(device: torch.device) -> int:
    """Bytes held now, counted as :func:`peak` counts them. From any thread, and before CUDA is used."""
    if device.type == "cuda":
        used = torch.cuda.is_initialized()
        return torch.cuda.memory_reserved(device) + CONTEXT["cuda"] if used else 0
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return psutil.Process().memory_info().rss


def held_on(choice: str) -> int | None:
    """The same of the device that ``limits.device`` asks for; None where that is not there."""
    try:
        return held(device_of(choice))
    except (BadRecipe, RuntimeError):  # the run itself says so; a heartbeat ends no run
        return None


def figures(row: dict[str, Any], device: str) -> str:
    """What stands beside the bar: ``figures(row, "cuda") == "loss 0.3100, 0.52 s/step, VRAM 9.6 GB"``."""
    memory = "VRAM" if device == "cuda" else "memory"
    return f"loss {row['loss']:.4f}, {row['seconds']:.2g} s/step, {memory} {label(row['bytes'])}"


INTERVAL = 1.0
"""Seconds between two looks."""


@contextmanager
def device_lock(
    device: torch.device, limits: Limits, run: RunDir, reporter: Reporter, interval: float = INTERVAL
) -> Iterator[None]:
    """Have a device for one run, from before its memory is looked at until the run ends.

    The operating system drops the lock with the process, so a killed run never blocks the next.

    Args:
        device: The device.
        limits: ``exclusive`` says whether to wait; unset: for a GPU.
        run: Who has it, for others to read.
        reporter: Is told for whom this waits, and may end the wait.
        interval: Seconds between two looks.

    Raises:
        Stopped: The caller wants the wait to end.
    """
    exclusive = device.type != "cpu" if limits.exclusive is None else limits.exclusive
    if not exclusive:
        yield
        return
    folder = user_cache("devices")
    folder.mkdir(parents=True, exist_ok=True)
    name = device_name(device)
    lock, holder = FileLock(folder / f"{name}.lock"), folder / f"{name}.json"
    if not _acquired(lock):
        reporter.line(
            f"{device.type} is in use{_owner(holder)}. Waiting for it; limits.exclusive=false shares it."
        )
        with reporter.progress(f"Waiting for {device.type}", 1) as bar:
            while not _acquired(lock):
                reporter.check()
                time.sleep(interval)
            bar.advance()
    try:
        write_json(holder, {"pid": os.getpid(), "run": str(run.path)})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def device_name(device: torch.device) -> str:
    """A name of the device that all processes of this machine agree on, whichever GPUs they can see."""
    if device.type != "cuda":
        return device.type
    facts = torch.cuda.get_device_properties(device)
    return f"cuda-{getattr(facts, 'uuid', device.index or 0)}"


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _owner(holder: Path) -> str:
    """Who has it, as far as it is known: it may have the lock and not have signed yet."""
    try:
        entry = json.loads(holder.read_text(encoding="utf-8"))
        return f" by process {entry['pid']}, run {entry['run']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def loss_scale(scaler: torch.amp.GradScaler, repeats: int) -> dict[str, float]:
    """What metrics of a step in fp16 say besides: the loss scale that is next, and its repeats."""
    return {"loss_scale": scaler.get_scale(), "repeats": repeats} if scaler.is_enabled() else {}


def overflow_lines(row: Mapping[str, Any]) -> list[str]:
    """A line on a step whose scaled gradient overflowed fp16; of most steps none."""
    if not row.get("repeats"):
        return []
    return [
        f"Step {row['step']}: its gradient overflowed fp16, so it was repeated with the same draws "
        f"({counted(row['repeats'], 'time')}). The loss scale is {row['loss_scale']:g} now."
    ]
