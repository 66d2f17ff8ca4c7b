"""What is done when memory runs out: let go of what failed, take a smaller plan, do it again."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from limner.errors import first_line
from limner.events import PlanLowered
from limner.nn import distributed
from limner.nn.memory.plan import Plan
from limner.reporter import Reporter
from limner.training.monitor import peak
from limner.training.oom_fallback import OomFallback, changes

T = TypeVar("T")


def retry_on_oom(act: Callable[[], T], lower: Callable[[str], None]) -> T:
    """Do something, and where memory runs out in any process, let all of them go lower and do it again.

    Args:
        act: What is to be done; may be done again from its start.
        lower: Takes a smaller plan, or raises; is told what torch said.
    """
    while True:
        results, short = outcome(act)
        if short is None:
            return results[0]
        results.clear()
        lower(short)


def outcome(act: Callable[[], T]) -> tuple[list[T], str | None]:
    """Do something in every process: what it gave, and what torch said where memory ran out in any of them.

    Returns:
        A list of what ``act`` gave, empty where this process ran out of memory; None where none did.
    """
    results: list[T] = []
    short: str | None = None
    try:
        results.append(act())
    except torch.OutOfMemoryError as error:
        short = first_line(error)  # no more of it: its frames hold the tensors that were too many
    lacks = distributed.any_rank(short is not None)  # all of them wait here for each other
    return results, (short or "Another process ran out of memory.") if lacks else None


def release(device: torch.device) -> None:
    """Give back what nothing uses any more, and begin to measure anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def lower_plan(
    fallback: OomFallback, lower: Callable[[int], Plan], short: str, device: torch.device
) -> tuple[str, dict[str, Any]]:
    """Take the next smaller plan: what changes, for people, and what metrics say.

    Args:
        fallback: Where the run stands among its plans.
        lower: Its way down.
        short: What torch said, in a line.
        device: That ran out of memory.

    Raises:
        DoesNotFit: There is no smaller plan.
    """
    peak_bytes, before = distributed.all_reduce_max(peak(device)), fallback.plan
    release(device)
    plan = lower(peak_bytes)
    return changes(before, plan), {"out_of_memory": short, "bytes": peak_bytes, "plan": plan.to_json()}


def with_smaller_plans(
    activity: str,
    act: Callable[[], T],
    lower: Callable[[int], Plan],
    fallback: OomFallback,
    reporter: Reporter,
) -> T:
    """Do something that comes before the first step, by smaller plans if need be."""

    def fall(short: str) -> None:
        kind = fallback.run_plan.kind
        difference, row = lower_plan(fallback, lower, short, torch.device(kind))
        fallback.early.append(row)
        reporter.line(f"Out of memory while {activity}. Going on by a smaller plan: {difference}.")
        reporter.event(PlanLowered(step=None, changes=difference))

    return retry_on_oom(act, fall)
