"""What is done when memory runs out: let go of what failed, take a smaller plan, do it again."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from limner.nn import processes
from limner.plan.plan import Plan
from limner.run.ladder import Ladder, changes
from limner.run.say import Say
from limner.run.watch import peak

T = TypeVar("T")


def patiently(act: Callable[[], T], lower: Callable[[str], None]) -> T:
    """Do something, and where memory runs out in any process, let all of them go lower and do it again.

    Args:
        act: What is to be done; may be done again from its start.
        lower: Takes a smaller plan, or raises; is told what torch said.
    """
    while True:
        made: list[T] = []
        short: str | None = None
        try:
            made.append(act())
        except torch.OutOfMemoryError as error:
            short = str(error)  # no more of it: its frames hold the tensors that were too many
        if not processes.anyone(short is not None):
            return made[0]
        made.clear()
        lower(short or "Another process ran out of memory.")


def release(device: torch.device) -> None:
    """Give back what nothing uses any more, and begin to measure anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def lowered(
    ladder: Ladder, lower: Callable[[int], Plan], short: str, device: torch.device
) -> tuple[str, dict[str, Any]]:
    """Go a rung down: what changes, for people, and what metrics say.

    Args:
        ladder: Where the run stands.
        lower: Its way down.
        short: What torch said.
        device: That ran out of memory.

    Raises:
        DoesNotFit: There is no such rung.
    """
    held, before = processes.most(peak(device)), ladder.plan
    release(device)
    plan = lower(held)
    why = short.splitlines()[0][:200] if short else ""
    return changes(before, plan), {"out_of_memory": why, "bytes": held, "plan": plan.to_json()}


def begun(what: str, act: Callable[[], T], lower: Callable[[int], Plan], ladder: Ladder, say: Say) -> T:
    """Do something that comes before the first step, by smaller plans if need be; ``ladder.early`` knows."""

    def fall(short: str) -> None:
        kind = ladder.planned.device.kind
        changed, row = lowered(ladder, lower, short, torch.device(kind))
        ladder.early.append(row)
        say.line(f"Out of memory while {what}. Going on by a smaller plan: {changed}.")

    return patiently(act, fall)
