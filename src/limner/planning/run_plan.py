"""The plan of a run on this machine, as the trainer takes it: a value, and the way down from it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from limner.errors import BadRecipe, DoesNotFit
from limner.imports import imported
from limner.nn import distributed
from limner.nn.memory.plan import Plan, PreviousPrecision, RunPlan
from limner.planning.devices import Device
from limner.planning.local_device import device_for
from limner.planning.memory import moving_bytes
from limner.planning.planner import PlanResult, plan
from limner.planning.time import accumulation_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter

UNEQUAL = 1.1
"""One device may take so much more than the smallest before it gets a plan of its own."""


def plan_run(recipe: Recipe, reporter: Reporter, previous: PreviousPrecision | None = None) -> RunPlan:
    """The plan to begin with, of this machine's device, for this process's share of each step.

    Several processes compute with one precision, and by one plan, that of the smallest device. Where devices
    are unequal and a LoRA is trained, each has its own plan within that precision: another micro-batch, other
    blocks that are checkpointed or swapped.

    Args:
        recipe: What to train.
        reporter: Hears of tracing.
        previous: What a run that goes on may not change.

    Raises:
        DoesNotFit: There is none.
        BadRecipe: There are more processes than images in a step, or they cannot agree on a precision.
    """
    device = device_for(recipe.limits)
    if distributed.world() == 1:
        return run_plan_of(plan(recipe, reporter, device=device, previous=previous))
    local, common = _local(device), shared(device)
    share_of = imported("limner.planning.several:share_of")  # most runs have one process
    run_plan = run_plan_of(
        plan(share_of(recipe, distributed.world()), reporter, device=common, previous=previous)
    )
    # each tells all, or one would wait for a word that another has no reason to give
    entries = distributed.gather((local.free, local.name, run_plan.plan))
    precision = _agreed(entries)
    if run_plan.plan.parted > 1:
        return run_plan
    is_unequal = max(free for free, *_ in entries) > UNEQUAL * min(free for free, *_ in entries)
    if recipe.train.method == "full" or not is_unequal:  # moments on the host of one, and not of another
        return run_plan
    unequal = plan(_unequal_share(recipe), reporter, device=local, previous=precision)
    return _together(recipe, run_plan_of(unequal))


def _unequal_share(recipe: Recipe) -> Recipe:
    """The recipe for a process that takes more or fewer micro-batches than others.

    It may take several, so gradients are there while it computes; none is larger than an equal share.
    """
    largest = math.ceil(max(recipe.train.batch, recipe.prior.batch) / distributed.world())
    return change(recipe, {"limits.micro_batch": min(largest, recipe.limits.micro_batch or largest)})


def _together(recipe: Recipe, run_plan: RunPlan) -> RunPlan:
    """The plan of one of unequal processes, with the time of a step that they take together."""
    entries = distributed.gather((run_plan.plan.micro_batch, run_plan.seconds_per_micro_batch))
    images_of = imported("limner.planning.several:images_of")
    seconds = images_of(recipe) / sum(micro_batch / seconds for micro_batch, seconds in entries)
    record = {
        **run_plan.record,
        "seconds_per_step": seconds,
        "processes": [{"micro_batch": size, "seconds_per_micro_batch": pace} for size, pace in entries],
    }
    faster = recipe.train.steps * (run_plan.seconds_per_step - seconds)
    return replace(
        run_plan,
        is_common=False,
        seconds_per_step=seconds,
        seconds=run_plan.seconds - faster,
        record=record,
    )


def _precision_of(plan: Plan) -> PreviousPrecision:
    return PreviousPrecision(plan.weights, plan.optimizer_state, plan.matmul_precision)


def _agreed(entries: Sequence[tuple[int, str, Plan]]) -> PreviousPrecision:
    """The precision of the device that may take least, given (bytes, device, plan) of each process.

    Raises:
        BadRecipe: Devices compute in different types of numbers, or would split weights and not.
    """
    computes = {plan.compute: name for _, name, plan in entries}
    if len(computes) > 1:
        devices = " and ".join(f"{compute} on {name}" for compute, name in sorted(computes.items()))
        raise BadRecipe(
            f"The processes of this run would compute in {devices}. Set limits.compute_dtype to one that all "
            "have, or train on devices of one kind."
        )
    if len({plan.parted for _, _, plan in entries}) > 1:
        raise BadRecipe(
            "The devices of this run differ in whether weights are to be split over its processes. Set "
            'limits.shard = "on" or "off".'
        )
    return _precision_of(min(entries, key=lambda entry: entry[0])[2])


def run_plan_of(result: PlanResult) -> RunPlan:
    """What the trainer takes of a plan.

    Raises:
        DoesNotFit: There is none.
    """
    choice, request = result.choice, result.request
    if choice is None:
        raise DoesNotFit(str(result.misfit))
    seconds = choice.step_time.seconds
    first, later = (
        moving_bytes(
            result.profile,
            choice.plan,
            request.optimizer,
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
        seconds_per_step=seconds,
        seconds_per_micro_batch=seconds / accumulation_of(choice.plan, request.batches),
        seconds=result.total.seconds if result.total else math.nan,
        optimizer_bytes=(first, later),
        disk=result.disk,
        record=result.plain(),
        down=lambda used_bytes: run_plan_of(result.down(used_bytes)),
        encode_down=lambda used_bytes: run_plan_of(result.encode_down(used_bytes)),
    )


def shared(device: Device) -> Device:
    """What each of several processes may take, so that all of them make the same plan."""
    local = _local(device)
    return replace(
        local,
        free=distributed.all_reduce_min(local.free),
        ram=distributed.all_reduce_min(local.ram),
        pinned=distributed.all_reduce_min(local.pinned),
    )


def _local(device: Device) -> Device:
    """What this process may take, beside others on the same machine."""
    one_of = imported("limner.planning.several:one_of")
    return one_of(device, distributed.world(), distributed.local_world_size())
