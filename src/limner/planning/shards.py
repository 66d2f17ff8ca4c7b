"""What it takes to split a denoiser over processes (FSDP2): parts and whole blocks, gathers in seconds.

Of N processes each has 1/N of every weight. A gather brings a process what the others have, (N - 1)/N of a
block, at the rate of the link between devices (a ring, as NCCL counts its bus bandwidth). Frozen weights are
gathered twice in a micro-batch, forward and backward; where they are trained, gradients go the same way once
more, and nothing else is summed. Of a predictor whose heads are divided each process has the base whole, and
what goes between them is the factors that heads write, and their gradients. No torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from limner.nn.memory.plan import Plan
from limner.planning.devices import Device
from limner.planning.profile import Block, Profile

if TYPE_CHECKING:
    from limner.planning.time import CostModel

NUMBER = 4
"""Bytes of a trained number and of its gradient: fp32."""
WHOLE_BLOCKS = 3
"""Blocks' worth of memory where frozen weights are gathered: the one that computes, and the next one as it
came and as its weights are laid out (torch, ``fsdp/_fully_shard/_fsdp_collectives.py``)."""
GRADIENT_BLOCKS = 2
"""Blocks' worth more where they are trained: a block's gradients, and the same as they are sent."""


def trains_blocks(profile: Profile) -> bool:
    """Whether the weights of the blocks are trained, rather than adapters beside them."""
    return not any(size for block in profile.blocks for size in block.weight_bytes.values())


def part_of(profile: Profile, plan: Plan) -> Profile:
    """The profile of what stays in one process: of its blocks, or of all that is trained, a part."""
    if plan.head_shards > 1:
        return _with_part_of_heads(profile, plan)
    if plan.shards == 1:
        return profile
    if not trains_blocks(profile):
        return replace(profile, blocks=tuple(_part(block, plan.shards) for block in profile.blocks))
    names = ("trained", "factored", "largest", "idle", "exact", "head", "whole")
    return replace(
        profile,
        blocks=tuple(replace(block, trained=part(block.trained, plan.shards)) for block in profile.blocks),
        **{name: part(getattr(profile, name), plan.shards) for name in names},
    )


def _with_part_of_heads(profile: Profile, plan: Plan) -> Profile:
    """One process's heads: shares differ by a head at most. Factors wait twice, on their way and arrived."""
    heads = min(profile.heads, part(profile.heads, plan.head_shards) + profile.largest)
    rest, waiting = profile.rest, 2 * NUMBER * profile.factors
    sizes = {
        name: replace(line, per_image=line.per_image + waiting, single=None)
        for name, line in {"saved": rest.saved, "input": rest.input}.items()
    }
    trained = profile.trained - profile.heads + heads
    return replace(profile, trained=trained, rest=replace(rest, **sizes))


def part(size: int, shards: int) -> int:
    """The larger part of so many bytes or numbers."""
    return -(-size // shards)


def _part(block: Block, shards: int) -> Block:
    return replace(
        block,
        weight_bytes={kind: part(size, shards) for kind, size in block.weight_bytes.items()},
        other=part(block.other, shards),
        modulation=part(block.modulation, shards),
    )


def block_bytes(profile: Profile, plan: Plan) -> list[int]:
    """Bytes of each block, whole, as it is gathered."""
    if trains_blocks(profile):
        return [NUMBER * block.trained for block in profile.blocks]
    return [block.weight_bytes[plan.compute] + block.other + block.modulation for block in profile.blocks]


def _outside(profile: Profile) -> int:
    """Bytes of trained weights outside the blocks, which are gathered for a whole pass."""
    if not trains_blocks(profile):
        return 0
    return NUMBER * max(0, profile.learning - sum(block.trained for block in profile.blocks))


def gathered_bytes(profile: Profile, plan: Plan) -> int:
    """Bytes of what is whole for a while, at most, beside the parts."""
    copies = WHOLE_BLOCKS + GRADIENT_BLOCKS * trains_blocks(profile)
    return copies * max(block_bytes(profile, plan), default=0) + _outside(profile)


def passed_bytes(profile: Profile, plan: Plan) -> float:
    """Bytes that come to a process in a micro-batch."""
    times = 3 if trains_blocks(profile) else 2
    return times * _coming(sum(block_bytes(profile, plan)) + _outside(profile), plan.shards)


def _coming(size: float, shards: int) -> float:
    return size * (shards - 1) / shards


def seconds(model: "CostModel", checkpointed_blocks: int) -> tuple[float, float]:
    """Seconds of a micro-batch, and those of them that it waits for the link.

    On GPUs the next block comes while one computes, and gradients leave while the one before computes; on
    a processor each waits for the other.
    """
    plan, profile, device = model.plan, model.profile, model.device
    link = device.rates.link
    times = [_coming(size, plan.shards) / link for size in block_bytes(profile, plan)]
    back = [
        time + (model.recompute[number] if number < checkpointed_blocks else 0.0)
        for number, time in enumerate(model.backward)
    ]
    trained = trains_blocks(profile)
    busy = model.once + model.repeated[checkpointed_blocks]
    outside_seconds = (3 if trained else 2) * _coming(_outside(profile), plan.shards) / link
    if device.kind != "cuda":
        waiting = outside_seconds + (3 if trained else 2) * sum(times)
    else:
        first = times[0] + times[-1] if times else 0.0  # nothing computes while the first of a pass comes
        waiting = outside_seconds + first + _exposed(model.forward, times[1:])
        waiting += _exposed(back[::-1], [(1 + trained) * time for time in times[::-1]][1:])
    return busy + waiting, waiting


def _exposed(busy: Sequence[float], coming: Sequence[float]) -> float:
    """Seconds that what comes for the next block takes longer than the block before it."""
    return sum(max(0.0, time - work) for work, time in zip(busy, coming, strict=False))


def exchanged_bytes(profile: Profile, plan: Plan) -> float:
    """Bytes that come to a process in a micro-batch: factors of its samples, gradients of its heads'."""
    return 2 * _coming(NUMBER * profile.factors * plan.micro_batch, plan.head_shards)


def summed_numbers(profile: Profile, plan: Plan) -> int:
    """Numbers whose gradients processes sum once a step: those that each has whole."""
    if plan.shards > 1 and trains_blocks(profile):
        return 0
    return profile.learning - profile.heads * (plan.head_shards > 1)


def summing_seconds(profile: Profile, plan: Plan, device: Device) -> float:
    """Seconds in which processes sum the gradients of what each has whole: an all-reduce, there and back."""
    if device.processes == 1:
        return 0.0
    return 2 * _coming(NUMBER * summed_numbers(profile, plan), device.processes) / device.rates.link
