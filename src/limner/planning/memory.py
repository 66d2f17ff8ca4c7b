"""How many bytes a plan needs, by cause and by phase: arithmetic on a profile. No torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from limner.nn.layers.precision import coding_bytes
from limner.nn.memory.plan import BITS, Kind, Plan, Weights
from limner.planning.profile import Block, Profile
from limner.recipe.optimizers import optimizer_of

MIB = 2**20
MASTER = 4
"""Bytes of a trained number and of its gradient: fp32."""

CONTEXT: dict[Kind, int] = {"cuda": 500 * MIB, "mps": 100 * MIB, "cpu": 0}
"""Taken before the first tensor: the driver's context and the modules of kernels, which torch loads as they
are first used (``CUDA_MODULE_LOADING=LAZY``). An assumption until a GPU has measured it."""

WORKSPACE: dict[Kind, int] = {"cuda": 64 * MIB, "mps": 0, "cpu": 0}
"""cuBLAS has one for each thread's handle, and the backward pass has a thread of its own: twice 32 MiB on
Hopper, twice 8.1 MiB elsewhere (torch, ``aten/src/ATen/cuda/CublasHandlePool.cpp``)."""

SLACK = 0.02
"""Share of what comes and goes that the caching allocator cannot use again, with expandable segments."""
GRAIN = 128 * MIB
"""Bytes that it holds besides: pages taken ahead of need, and holes that nothing fits into. Both stand for
replays of whole traces, from which they are 3 % under to 5 % over (``benchmarks/memory/plan_memory.py``)."""

CODES: frozenset[Weights] = frozenset({"int8", "fp8", "nf4"})
"""Weights that are stored as codes, so that one at a time is turned back into numbers."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of device memory at the fullest moment of a phase."""

    causes: Mapping[str, int]
    """weights, modulations, adapter or trained, gradients, optimizer, activations, streaming, workspace,
    context."""
    reserved: int
    """What the device has to give: all causes, and what the allocator holds and cannot hand out."""

    @property
    def total(self) -> int:
        """All causes together."""
        return sum(self.causes.values())

    @property
    def largest(self) -> str:
        """The cause that takes most."""
        return max(self.causes, key=lambda cause: self.causes[cause])


def train_memory(
    profile: Profile,
    plan: Plan,
    *,
    optimizer: str = "adamw",
    accumulation_steps: int = 1,
    average: bool = False,
    on: Kind = "cuda",
) -> MemoryEstimate:
    """What a training step takes, from the second one on: the first creates the optimizer's state.

    Args:
        profile: Of the base, the adapter and the largest bucket.
        plan: How it is computed.
        optimizer: The recipe's.
        accumulation_steps: Micro-batches of a step. From the second on, gradients are there from the start.
        average: Whether a moving average of the weights is kept.
        on: Sort of device.
    """
    causes = _resident(profile, plan, optimizer, average=average, on=on)
    moments = [*_moments(profile, plan, accumulation_steps), _step(profile, optimizer)]
    activations, gradients = max(moments, key=sum)
    return _need(causes, activations, gradients, on)


def staying(
    profile: Profile, plan: Plan, *, optimizer: str = "adamw", average: bool = False, on: Kind = "cuda"
) -> int:
    """Bytes that are there all through training: every cause but activations and gradients."""
    return sum(_resident(profile, plan, optimizer, average=average, on=on).values())


def sample_memory(
    profile: Profile,
    plan: Plan,
    *,
    optimizer: str = "adamw",
    average: bool = False,
    least: bool = False,
    on: Kind = "cuda",
) -> MemoryEstimate:
    """What painting between two steps takes: all that training holds, no gradients, and the fullest stage.

    Args:
        profile: With the stages of the phase "sample".
        plan: How training is computed.
        optimizer: The recipe's.
        average: Whether a moving average of the weights is kept.
        least: Models of a stage come layer by layer where that is possible.
        on: Sort of device.
    """
    causes = _resident(profile, plan, optimizer, average=average, on=on)
    weights, activations = _fullest(profile, "sample", least=least)
    causes["weights"] += weights
    if not profile.hosted:
        causes["optimizer"] += optimizer_of(optimizer).parked_bytes * profile.trained
    return _need(causes, activations, 0, on)


def cache_memory(profile: Profile, *, least: bool = False, on: Kind = "cuda") -> MemoryEstimate:
    """What filling the cache takes: one model after the other, so the fullest stage.

    Args:
        profile: With the stages of the phase "cache".
        least: Models come layer by layer where that is possible.
        on: Sort of device.
    """
    weights, activations = _fullest(profile, "cache", least=least)
    causes = {"weights": weights, "workspace": WORKSPACE[on], "context": CONTEXT[on]}
    return _need(causes, activations, 0, on)


def load_memory(profile: Profile, plan: Plan, *, on: Kind = "cuda") -> MemoryEstimate:
    """What loading takes: the weights as the plan stores them, and the one tensor that is cast or coded."""
    held = _resident(profile, plan, "adamw", average=False, on=on)
    causes = {cause: size for cause, size in held.items() if cause not in ("adapter", "optimizer")}
    widest = max((block.widest for block in profile.blocks), default=0)
    copies = 2 if profile.cast else bool(plan.codes)  # files of fp32 have twice the bytes
    read = 0 if on == "cpu" else copies * widest  # there it is read where it lies, in its file
    return _need(causes, read + coding(profile.blocks, plan), 0, on)


def coding(blocks: Iterable[Block], plan: Plan) -> int:
    """Bytes that making the codes of some blocks takes, beside the weight that is coded and the codes."""
    if not plan.codes:
        return 0
    widest = max((block.widest for block in blocks), default=0)
    return coding_bytes(plan.codes, widest * 8 // BITS[plan.compute])


def state_bytes(profile: Profile, plan: Plan, optimizer: str) -> int:
    """Bytes of the optimizer's state.

    Raises:
        BadRecipe: No such optimizer.
    """
    record = optimizer_of(optimizer)
    if record.factored:
        return MASTER * profile.factored
    if record.in_8_bits and plan.optimizer_state == "8bit":
        record = optimizer_of(record.in_8_bits)
    return round(record.state_bytes * profile.learning)


def scratch_bytes(profile: Profile, optimizer: str) -> float:
    """Bytes that an optimizer needs beside its state while it steps."""
    record = optimizer_of(optimizer)
    return record.step_bytes * profile.learning + record.step_bytes_of_largest * profile.largest


def moving_bytes(
    profile: Profile, plan: Plan, optimizer: str, *, first: bool = False, several: bool = False
) -> int:
    """Bytes that are asked of the device between a step's last gradient and the next step.

    Args:
        profile: Of the base and what is trained.
        plan: How it is computed.
        optimizer: The recipe's.
        first: Whether the optimizer has no state yet.
        several: Whether gradients are summed over processes, through one buffer.
    """
    if profile.hosted:
        return 0
    state = state_bytes(profile, plan, optimizer) if first and not optimizer_of(optimizer).paged else 0
    return round(scratch_bytes(profile, optimizer)) + state + several * MASTER * profile.learning


def saved_bytes(profile: Profile, plan: Plan, optimizer: str, *, average: bool) -> int:
    """Bytes of a checkpoint."""
    return MASTER * profile.trained * (2 if average else 1) + state_bytes(profile, plan, optimizer)


def frozen_bytes(block: Block, plan: Plan) -> int:
    """Bytes of a block's frozen weights, modulations among them unless they are precomputed."""
    return block.stored[plan.weights] + block.other + (0 if plan.precompute_modulation else block.modulation)


def slot_bytes(profile: Profile, plan: Plan) -> int:
    """Bytes on the device that swapped blocks share."""
    away = [frozen_bytes(profile.blocks[number], plan) for number in plan.swapped_of(len(profile.blocks))]
    return max(away, default=0) * min(max(plan.swap_buffers, 2), len(away))


def _passing(profile: Profile, plan: Plan) -> int:
    """Bytes that precomputed modulations pass through, layer after layer: those of a block at most."""
    widest = max(block.modulation for block in (profile.rest, *profile.blocks))
    return widest if plan.precompute_modulation else 0


def _resident(profile: Profile, plan: Plan, optimizer: str, *, average: bool, on: Kind) -> dict[str, int]:
    """Bytes that are there all the time, by cause."""
    away = set(plan.swapped_of(len(profile.blocks)))
    stay = [block for number, block in enumerate(profile.blocks) if number not in away]
    rest = profile.rest
    modulated = [] if plan.precompute_modulation else [rest, *stay]
    copies = 2 if average and not profile.hosted else 1
    elsewhere = profile.hosted or optimizer_of(optimizer).paged
    trained = MASTER * profile.trained * copies
    if profile.whole:
        trained = profile.whole + MASTER * profile.trained * (copies - 1)
    return {
        "weights": sum(block.stored[plan.weights] + block.other for block in stay)
        + rest.stored[plan.compute]
        + rest.other
        + profile.held,
        "modulations": sum(block.modulation for block in modulated),
        "trained" if profile.whole else "adapter": trained,
        "optimizer": 0 if elsewhere else state_bytes(profile, plan, optimizer),
        "streaming": slot_bytes(profile, plan) + _passing(profile, plan),
        "workspace": WORKSPACE[on],
        "context": CONTEXT[on],
    }


def _moments(profile: Profile, plan: Plan, accumulation_steps: int) -> Iterator[tuple[float, float]]:
    """(activations, gradients) in bytes when the forward pass ends, then in each block's backward pass."""
    images, blocks = plan.micro_batch, profile.blocks
    dequantized = _decoding(profile) if plan.weights in CODES else 0
    # What each block keeps for its backward pass, and what of that is there until it begins: all of it, or
    # only the block's input where the block is checkpointed.
    full = [block.kept.at(images) for block in blocks]
    stored = [
        _input(block, plan, full[number]) if number < plan.checkpointed_blocks else full[number]
        for number, block in enumerate(blocks)
    ]
    # Gradients are added to those of the micro-batch before, so from the second one on all are there.
    all_gradients = 0 if profile.hosted else MASTER * profile.learning
    gradients = all_gradients if accumulation_steps > 1 else 0
    # The forward pass is over: everything is stored, and its last operations still hold their own memory.
    yield profile.rest.kept.at(images) + sum(stored) + profile.forward.at(images) + dequantized, gradients
    # Backwards, from the last block: what lies behind it has its gradients already. At each block all blocks
    # before it are stored, the block itself keeps everything (recomputed, if it was checkpointed), and works.
    earlier = profile.rest.input.at(images) + sum(stored)
    gradients = max(gradients, min(all_gradients, MASTER * profile.head))
    for number in reversed(range(len(blocks))):
        earlier -= stored[number]
        yield earlier + full[number] + _room(profile, plan, number) + dequantized, gradients
        gradients = min(all_gradients, gradients + MASTER * blocks[number].trained)
    # Before the first block all gradients are there, and only what stands ahead of the blocks is stored.
    yield profile.rest.input.at(images), all_gradients


def _decoding(profile: Profile) -> int:
    """Bytes that turning codes back into numbers adds to the fullest moment."""
    if profile.decoding is not None:
        return profile.decoding
    return max((block.widest for block in profile.blocks), default=0)


def _input(block: Block, plan: Plan, kept: float) -> float:
    """Bytes that a checkpointed block keeps: never more than it would keep otherwise."""
    attention = block.attention_kept.at(plan.micro_batch) if plan.keep_attention else 0
    return min(kept, block.input.at(plan.micro_batch) + attention)


def _room(profile: Profile, plan: Plan, number: int) -> float:
    """Bytes that a block's backward pass needs beyond what it and all before it keep."""
    block = profile.blocks[number]
    own, general = (
        (block.recompute_room, profile.recompute)
        if number < plan.checkpointed_blocks
        else (block.backward_room, profile.backward)
    )
    return (general if own is None else own).at(plan.micro_batch)


def _step(profile: Profile, optimizer: str) -> tuple[float, float]:
    """The optimizer's own moment."""
    if profile.hosted:
        return 0.0, 0.0
    return scratch_bytes(profile, optimizer), MASTER * profile.learning


def _fullest(profile: Profile, phase: str, *, least: bool) -> tuple[int, int]:
    """(weights, activations) of the stage of a phase that takes most."""
    stages = [stage for stage in profile.stages if stage.phase == phase]
    sizes = [(stage.least if least else stage.weights, stage.activations) for stage in stages]
    return max(sizes, key=sum, default=(0, 0))


def _need(causes: Mapping[str, int], activations: float, gradients: float, on: Kind) -> MemoryEstimate:
    """All causes, and what the allocator of a GPU takes beside them."""
    whole = {**causes, "gradients": round(gradients), "activations": round(activations)}
    slack = GRAIN + SLACK * (activations + gradients) if on == "cuda" else 0
    return MemoryEstimate(whole, sum(whole.values()) + round(slack))
