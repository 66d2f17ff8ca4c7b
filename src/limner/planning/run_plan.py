"""The plan of a run on this machine, as the trainer takes it: a value, and the way down from it."""

import math
from dataclasses import replace

from limner.errors import DoesNotFit
from limner.nn import distributed
from limner.nn.memory.plan import PreviousPrecision, RunPlan
from limner.planning.devices import Device
from limner.planning.local_device import device_for
from limner.planning.memory import moving_bytes
from limner.planning.planner import PlanResult, plan
from limner.recipe.schema import Recipe
from limner.reporter import Reporter


def plan_run(recipe: Recipe, reporter: Reporter, previous: PreviousPrecision | None = None) -> RunPlan:
    """The plan to begin with, of this machine's device; the same in every process.

    Args:
        recipe: What to train.
        reporter: Hears of tracing.
        previous: What a run that goes on may not change.

    Raises:
        DoesNotFit: There is none.
    """
    device = shared(device_for(recipe.limits))
    return run_plan_of(plan(recipe, reporter, device=device, previous=previous))


def run_plan_of(result: PlanResult) -> RunPlan:
    """What the trainer takes of a plan.

    Raises:
        DoesNotFit: There is none.
    """
    choice = result.choice
    if choice is None:
        raise DoesNotFit(str(result.misfit))
    first, later = (
        moving_bytes(
            result.profile,
            choice.plan,
            result.request.optimizer,
            first=is_first,
            all_reduce=distributed.world() > 1,
        )
        for is_first in (True, False)
    )
    return RunPlan(
        plan=choice.plan,
        kind=result.device.kind,
        free=result.device.free,
        bytes=choice.reserved,
        process_bytes=choice.host.pageable,
        seconds_per_step=choice.step_time.seconds,
        seconds=result.total.seconds if result.total else math.nan,
        optimizer_bytes=(first, later),
        disk=result.disk,
        record=result.plain(),
        down=lambda used_bytes: run_plan_of(result.down(used_bytes)),
        encode_down=lambda used_bytes: run_plan_of(result.encode_down(used_bytes)),
    )


def shared(device: Device) -> Device:
    """What each of several processes may take, so that all of them make the same plan."""
    share = distributed.local_world_size()
    free = device.free if device.kind == "cuda" else device.free // share
    return replace(
        device,
        free=distributed.all_reduce_min(free),
        ram=distributed.all_reduce_min(device.ram // share),
        pinned=distributed.all_reduce_min(device.pinned // share),
        processes=distributed.world(),
    )
