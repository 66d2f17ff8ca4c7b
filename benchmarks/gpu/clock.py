"""When each optimizer step ended, seen from inside any program: torch calls a hook after every one of them.

On a GPU an event is recorded, which costs the program nothing and waits for nothing; elsewhere the wall's
clock is read. The time of a step is from the end of the one before it to its own, so it holds everything
that a program does for a step.
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim import optimizer as optimizers


class Enough(SystemExit):
    """All steps that count are done; a program that goes on would only save and paint."""


class Clock:
    """Notes the end of every optimizer step of this process and writes what it saw.

    Args:
        path: Where the JSON goes.
        warm_up: Steps that do not count.
        steps: Steps that count.
        began: ``time.time()`` when the command was started.
    """

    def __init__(self, path: Path, *, warm_up: int, steps: int, began: float) -> None:
        self.path, self.warm_up, self.steps, self.began = path, warm_up, steps, began
        self.marks: list[Any] = []
        self.facts: dict[str, Any] = {}
        self.cuda = torch.cuda.is_available()
        self._hook = optimizers.register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_: object) -> None:
        if not self.marks:
            if self.cuda:
                torch.cuda.synchronize()
            self.facts["first_step"] = time.time() - self.began
        self.marks.append(self._mark())
        if self.cuda and len(self.marks) == self.warm_up:
            self.facts["warm_up"] = memory()
            torch.cuda.reset_peak_memory_stats()
        if len(self.marks) >= self.warm_up + self.steps:
            self.write()
            raise Enough(0)

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def write(self) -> None:
        """What was seen so far."""
        self._hook.remove()
        if self.cuda:
            torch.cuda.synchronize()
            seconds = [a.elapsed_time(b) / 1e3 for a, b in zip(self.marks, self.marks[1:], strict=False)]
        else:
            seconds = [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]
        facts = {
            **self.facts,
            "seconds": seconds,
            "memory": memory(),
            "host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        self.path.write_text(json.dumps(facts))


def memory() -> dict[str, int]:
    """Peaks of torch's allocator since they were last reset, bytes. Empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def from_environment() -> Clock:
    """The clock that the table asked for in ``LIMNER_BENCH``; caps this process's memory as well."""
    settings = json.loads(os.environ["LIMNER_BENCH"])
    if settings["cap"] and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, settings["cap"] / total))
    return Clock(
        Path(settings["out"]), warm_up=settings["warm_up"], steps=settings["steps"], began=settings["began"]
    )


def matrix_rate(side: int, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a product of two square matrices of random numbers, the median of ten after three."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds: list[float] = []
    for _ in range(13):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            a @ b
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds[3:])


if __name__ == "__main__":
    device_name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if device_name == "cuda" else torch.float32
    print(matrix_rate(int(sys.argv[1]), kind, device_name))
