"""The plan of a run; where memory runs out a smaller one takes its place, and the work is done again."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch

from limner.data.order import Pace
from limner.errors import DoesNotFit, first_line
from limner.events import PlanLowered, PlanMade
from limner.files import human
from limner.nn import distributed
from limner.nn.memory.plan import Plan, PreviousPrecision, RunPlan
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.monitor import Watch, peak

MAX_FALLS = 3
"""Times that a run may step down before something must be wrong that no plan mends."""


class Planner(Protocol):
    """Who makes the plan of a run: ``planning.run_plan.plan_run``."""

    def __call__(
        self, recipe: Recipe, reporter: Reporter, previous: PreviousPrecision | None = None
    ) -> RunPlan:
        """The plan of a run, or ``DoesNotFit``. ``previous``: what one that goes on may not change."""
        ...


@dataclass
class OomFallback:
    """Where a run stands among its plans.

    Attributes:
        run_plan: The plan that is used, and what it was found to need.
        process: Bytes that the process held before anything was loaded; counts where the processor trains.
        falls: How often it ran out of memory.
        early: Of each time before the first step, what its metrics are to say.
    """

    run_plan: RunPlan
    process: int = 0
    falls: int = 0
    early: list[dict[str, Any]] = field(default_factory=list)

    def log_early(self, run: RunDir, step: int) -> None:
        """Keep the plan that is left, and why, where memory ran out before the first step."""
        if self.early:
            run.write_plan(self.run_plan.record)
            for row in self.early:
                run.log({"step": step, **row})

    @property
    def plan(self) -> Plan:
        """The plan that is used."""
        return self.run_plan.plan

    @property
    def bytes(self) -> int:
        """Planned peak: of the device, or of the whole process where that is the processor."""
        run_plan = self.run_plan
        process_bytes = max(self.process, run_plan.process_bytes) if run_plan.kind == "cpu" else 0
        return run_plan.bytes + process_bytes

    @property
    def pace(self) -> Pace:
        """What this process takes on beside the others of the run."""
        return Pace(self.plan.micro_batch, self.run_plan.seconds_per_micro_batch)

    def event(self) -> PlanMade:
        """The plan that is used, for whoever follows the run."""
        return PlanMade(
            bytes=self.bytes,
            seconds_per_step=self.run_plan.seconds_per_step,
            seconds=self.run_plan.seconds,
            plan=self.plan.to_json(),
        )

    def watch(self) -> Watch:
        """Compares what happens with the plan that is used."""
        return Watch(self.run_plan.kind, seconds=self.run_plan.seconds_per_step, bytes=self.bytes)

    def down(self, peak_bytes: int) -> Plan:
        """The next smaller plan: the same batch, the same draws, the same precision.

        Args:
            peak_bytes: Most bytes that the run had held when memory ran out.

        Raises:
            DoesNotFit: There is none, or this was tried ``MAX_FALLS`` times.
        """
        return self._fall(self.run_plan.down, peak_bytes)

    def encode_down(self, peak_bytes: int) -> Plan:
        """The same plan with a smaller way to fill the cache. As :meth:`down`."""
        return self._fall(self.run_plan.encode_down, peak_bytes)

    def _fall(self, lower: Callable[[int], RunPlan], peak_bytes: int) -> Plan:
        usage, free = human(peak_bytes), human(self.run_plan.free)
        if self.falls == MAX_FALLS:
            raise DoesNotFit(
                f"Out of memory after {MAX_FALLS} smaller plans: {usage} were in use, {free} were free at "
                f"the start, {human(self.bytes)} are planned. Something else takes memory while the run goes "
                "on: stop it, or state what is yours with --vram. What is saved stays; the same command goes "
                "on."
            )
        try:
            self.run_plan = replace(lower(peak_bytes), is_common=self.run_plan.is_common)
        except DoesNotFit as error:
            raise DoesNotFit(
                f"Out of memory at {usage} of {free}, and no plan needs clearly less than "
                f"{human(self.bytes)}. Lower data.resolution, lora.rank or limits.weights_precision; "
                f"`limner plan` "
                "says what each would need."
            ) from error
        self.falls += 1
        return self.plan


def oom_fallback_of(
    recipe: Recipe, reporter: Reporter, planner: Planner, previous: PreviousPrecision | None = None
) -> OomFallback:
    """The plan to begin with.

    Raises:
        DoesNotFit: There is none.
    """
    return OomFallback(planner(recipe, reporter, previous), process=peak(torch.device("cpu")))


def changes(before: Plan, after: Plan) -> str:
    """What another plan does otherwise, for people: ``checkpointed 0 -> 12, micro_batch 4 -> 2``."""
    old, new = before.to_json(), after.to_json()
    return ", ".join(f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key])


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
    peak_bytes, before = peak(device), fallback.plan
    if fallback.run_plan.is_common:  # and stays so
        peak_bytes = distributed.all_reduce_max(peak_bytes)
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
