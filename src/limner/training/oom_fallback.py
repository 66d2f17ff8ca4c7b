"""The plan of a run, and the smaller one that takes its place when memory runs out all the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from limner.errors import DoesNotFit
from limner.events import PlanMade
from limner.files import human
from limner.nn import distributed
from limner.nn.memory.plan import Plan
from limner.planning.choice import Choice
from limner.planning.devices import Device
from limner.planning.local_device import device_for
from limner.planning.planner import PlanResult, PreviousPrecision, keep
from limner.planning.planner import plan as foreseen
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.monitor import Watch, peak

MAX_FALLS = 3
"""Times that a run may step down before something must be wrong that no plan mends."""


@dataclass
class OomFallback:
    """Where a run stands among its plans.

    Attributes:
        plan_result: The plan that is used, and what it was chosen from.
        process: Bytes that the process held before anything was loaded; counts where the processor trains.
        falls: How often it ran out of memory.
        early: Of each time before the first step, what its metrics are to say.
    """

    plan_result: PlanResult
    process: int = 0
    falls: int = 0
    early: list[dict[str, Any]] = field(default_factory=list)

    def log_early(self, run: RunDir, step: int) -> None:
        """Keep the plan that is left, and why, where memory ran out before the first step."""
        if self.early:
            keep(self.plan_result, run)
            for row in self.early:
                run.log({"step": step, **row})

    @property
    def choice(self) -> Choice:
        """The plan that is used, with what it needs."""
        if self.plan_result.choice is None:
            raise DoesNotFit(str(self.plan_result.misfit))
        return self.plan_result.choice

    @property
    def plan(self) -> Plan:
        """The plan that is used."""
        return self.choice.plan

    @property
    def bytes(self) -> int:
        """Planned peak: of the device, or of the whole process where that is the processor."""
        process_bytes = (
            max(self.process, self.choice.host.pageable) if self.plan_result.device.kind == "cpu" else 0
        )
        return self.choice.reserved + process_bytes

    def event(self) -> PlanMade:
        """The plan that is used, for whoever follows the run."""
        total = self.plan_result.total
        return PlanMade(
            bytes=self.bytes,
            seconds_per_step=self.choice.step_time.seconds,
            seconds=total.seconds if total else math.nan,
            plan=self.plan.to_json(),
        )

    def watch(self) -> Watch:
        """Compares what happens with the plan that is used."""
        return Watch(self.plan_result.device.kind, seconds=self.choice.step_time.seconds, bytes=self.bytes)

    def down(self, peak_bytes: int) -> Plan:
        """The next smaller plan: the same batch, the same draws, the same precision.

        Args:
            peak_bytes: Most bytes that the run had held when memory ran out.

        Raises:
            DoesNotFit: There is none, or this was tried ``MAX_FALLS`` times.
        """
        return self._fall(self.plan_result.down, peak_bytes)

    def encode_down(self, peak_bytes: int) -> Plan:
        """The same plan with a smaller way to fill the cache. As :meth:`down`."""
        return self._fall(self.plan_result.encode_down, peak_bytes)

    def _fall(self, lower: Callable[[int], PlanResult], peak_bytes: int) -> Plan:
        usage, free = human(peak_bytes), human(self.plan_result.device.free)
        if self.falls == MAX_FALLS:
            raise DoesNotFit(
                f"Out of memory after {MAX_FALLS} smaller plans: {usage} were in use, {free} were free at "
                f"the start, {human(self.bytes)} are planned. Something else takes memory while the run goes "
                "on: stop it, or state what is yours with --vram. What is saved stays; the same command goes "
                "on."
            )
        try:
            self.plan_result = lower(peak_bytes)
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
    recipe: Recipe, reporter: Reporter, previous: PreviousPrecision | None = None
) -> OomFallback:
    """The plan to begin with, of this machine's device; the same in every process.

    Raises:
        DoesNotFit: There is none.
    """
    plan_result = foreseen(recipe, reporter, device=shared(device_for(recipe.limits)), previous=previous)
    if plan_result.choice is None:
        raise DoesNotFit(str(plan_result.misfit))
    return OomFallback(plan_result, process=peak(torch.device("cpu")))


def shared(device: Device) -> Device:
    """What each of several processes may take, so that all of them make the same plan."""
    share = distributed.local_world_size()
    free = device.free if device.kind == "cuda" else device.free // share
    return replace(
        device,
        free=distributed.all_reduce_min(free),
        ram=distributed.all_reduce_min(device.ram // share),
        pinned=distributed.all_reduce_min(device.pinned // share),
    )


def changes(before: Plan, after: Plan) -> str:
    """What another plan does otherwise, for people: ``checkpointed 0 -> 12, micro_batch 4 -> 2``."""
    old, new = before.to_json(), after.to_json()
    return ", ".join(f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key])
