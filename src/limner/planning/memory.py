"""How many bytes a plan needs, by cause and by phase: arithmetic on a profile. No torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from limner.imports import imported
from limner.nn.memory.plan import BITS, CONTEXT, PORTION, Kind, Plan, Weights, coding_bytes, stored_bytes
from limner.nn.memory.segments import expandable
from limner.planning.profile import Block, Profile
from limner.recipe.optimizers import optimizer_of

MIB = 2**20
MASTER = 4
"""Bytes of a trained number and of its gradient: fp32."""

WORKSPACE: dict[Kind, int] = {"cuda": 64 * MIB, "mps": 0, "cpu": 0}
"""cuBLAS has one for each thread's handle, and the backward pass has a thread of its own: twice 32 MiB on
Hopper, twice 8.1 MiB elsewhere (torch, ``aten/src/ATen/cuda/CublasHandlePool.cpp``)."""

SLACK = 0.02
"""Share of what comes and goes that the caching allocator cannot use again, with expandable segments."""
GRAIN = 128 * MIB
"""Bytes that it holds besides: pages taken ahead of need, and holes that nothing fits into. Both stand for
replays of whole traces, from which they are 3 % under to 5 % over (``benchmarks/memory/plan_memory.py``)."""
HOLES = 0.25
"""Share of what recomputed blocks leave behind, their inputs and one block's own memory, that cannot be
handed out again: inputs lie between what comes and goes. Of seven bases with none to all blocks checkpointed,
each traced whole and replayed, reserved bytes are then 0 to 4 % over, and 1 to 8 % where segments cannot grow
(``benchmarks/memory/reserve.py``)."""
SEGMENTS = 0.8
"""The same of the largest block's own memory, where segments cannot grow (Windows, WSL, Jetson, ROCm): blocks
of one size are not handed out for those of another."""

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
    device_kind: Kind = "cuda",
) -> MemoryEstimate:
    """What a training step takes, from the second one on: the first creates the optimizer's state.

    Args:
        profile: Of the base, the adapter and the largest bucket.
        plan: How it is computed.
        optimizer: The recipe's.
        accumulation_steps: Micro-batches of a step. From the second on, gradients are there from the start.
        average: Whether a moving average of the weights is kept.
        device_kind: Sort of device.
    """
    causes = _resident(profile, plan, optimizer, average=average, device_kind=device_kind)
    profile = part_of(profile, plan)
    moments = [*_moments(profile, plan, accumulation_steps), _step(profile, plan, optimizer)]
    activations, gradients = max(moments, key=sum)
    return _need(causes, activations, gradients, device_kind, _holes(profile, plan))


def staying(
    profile: Profile,
    plan: Plan,
    *,
    optimizer: str = "adamw",
    average: bool = False,
    device_kind: Kind = "cuda",
) -> int:
    """Bytes that are there all through training: every cause but activations and gradients."""
    return sum(_resident(profile, plan, optimizer, average=average, device_kind=device_kind).values())


def sample_memory(
    profile: Profile,
    plan: Plan,
    *,
    optimizer: str = "adamw",
    average: bool = False,
    layer_by_layer: bool = False,
    device_kind: Kind = "cuda",
) -> MemoryEstimate:
    """What sampling between two steps takes: all that training holds, no gradients, and the fullest stage.

    Args:
        profile: With the stages of the phase "sample".
        plan: How training is computed.
        optimizer: The recipe's.
        average: Whether a moving average of the weights is kept.
        layer_by_layer: Models of a stage come layer by layer where that is possible.
        device_kind: Sort of device.
    """
    causes = _resident(profile, plan, optimizer, average=average, device_kind=device_kind)
    weights, activations = _fullest(profile, "sample", layer_by_layer=layer_by_layer)
    causes["weights"] += weights
    if not profile.on_host:
        causes["optimizer"] += optimizer_of(optimizer).parked_bytes * part_of(profile, plan).trained
    return _need(causes, activations, 0, device_kind)


def cache_memory(
    profile: Profile, *, layer_by_layer: bool = False, device_kind: Kind = "cuda"
) -> MemoryEstimate:
    """What filling the cache takes: one model after the other, so the fullest stage.

    Args:
        profile: With the stages of the phase "cache".
        layer_by_layer: Models come layer by layer where that is possible.
        device_kind: Sort of device.
    """
    weights, activations = _fullest(profile, "cache", layer_by_layer=layer_by_layer)
    causes = {"weights": weights, "workspace": WORKSPACE[device_kind], "context": CONTEXT[device_kind]}
    return _need(causes, activations, 0, device_kind)


def load_memory(profile: Profile, plan: Plan, *, device_kind: Kind = "cuda") -> MemoryEstimate:
    """What loading takes: the weights as the plan stores them, and the one tensor that is cast or coded."""
    resident = _resident(profile, plan, "adamw", average=False, device_kind=device_kind)
    causes = {cause: size for cause, size in resident.items() if cause not in ("adapter", "optimizer")}
    widest = max((block.widest for block in profile.blocks), default=0)
    copies = 2 if profile.cast else bool(plan.codes)  # files of fp32 have twice the bytes
    if plan.code_modulations:
        widest = max(widest, *(block.modulation for block in profile.blocks))
    read = 0 if device_kind == "cpu" else copies * widest  # there it is read where it lies, in its file
    return _need(causes, read + coding(profile.blocks, plan), 0, device_kind)


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


def gradient_bytes(profile: Profile, plan: Plan) -> float:
    """Bytes of a gradient for each number that learns, while it waits for the optimizer."""
    if plan.gradients == "fp32":
        return MASTER
    return MASTER / 2 * (1 + profile.exact / max(1, profile.learning))


def _portion(profile: Profile, plan: Plan) -> int:
    """Bytes of gradients that are fp32 for the optimizer's sake."""
    if plan.gradients == "fp32":
        return 0
    return min(MASTER * profile.learning, max(PORTION, MASTER * profile.largest))


def moving_bytes(
    profile: Profile, plan: Plan, optimizer: str, *, first: bool = False, all_reduce: bool = False
) -> int:
    """Bytes that are asked of the device between a step's last gradient and the next step.

    Args:
        profile: Of the base and what is trained.
        plan: How it is computed.
        optimizer: The recipe's.
        first: Whether the optimizer has no state yet.
        all_reduce: Whether gradients are summed over processes, through one buffer.
    """
    if profile.on_host:
        return 0
    buffer = imported("limner.planning.shards:summed_numbers")(profile, plan) if all_reduce else 0
    profile = part_of(profile, plan)
    state = state_bytes(profile, plan, optimizer) if first and not optimizer_of(optimizer).paged else 0
    scratch = round(scratch_bytes(profile, optimizer)) + _portion(profile, plan)
    return scratch + state + MASTER * buffer


def part_of(profile: Profile, plan: Plan) -> Profile:
    """The profile of what stays in one process, where weights are split over several."""
    return imported("limner.planning.shards:part_of")(profile, plan) if plan.parted > 1 else profile


def trains_parts(profile: Profile, plan: Plan) -> bool:
    """Whether what is trained is split over processes."""
    return plan.shards > 1 and imported("limner.planning.shards:trains_blocks")(profile)


def _gathered_bytes(profile: Profile, plan: Plan) -> int:
    return imported("limner.planning.shards:gathered_bytes")(profile, plan)


def saved_bytes(profile: Profile, plan: Plan, optimizer: str, *, average: bool) -> int:
    """Bytes of a checkpoint."""
    return MASTER * profile.trained * (2 if average else 1) + state_bytes(profile, plan, optimizer)


def frozen_bytes(block: Block, plan: Plan) -> int:
    """Bytes of a block's frozen weights, modulations among them unless they are precomputed."""
    return block.weight_bytes[plan.weights] + block.other + stored_modulation(block, plan)


def stored_modulation(block: Block, plan: Plan) -> int:
    """Bytes that a block's modulations take where its other weights are."""
    if plan.precompute_modulation:
        return 0
    if plan.code_modulations:
        return stored_bytes("nf4", 1, block.modulation * 8 // BITS[plan.compute])
    return block.modulation


def slot_bytes(profile: Profile, plan: Plan) -> int:
    """Bytes on the device that swapped blocks share."""
    swapped_bytes = [
        frozen_bytes(profile.blocks[number], plan) for number in plan.swapped_of(len(profile.blocks))
    ]
    return max(swapped_bytes, default=0) * min(max(plan.swap_buffers, 2), len(swapped_bytes))


def _passing(profile: Profile, plan: Plan) -> int:
    """Bytes that precomputed modulations pass through, layer after layer: those of a block at most."""
    widest = max(block.modulation for block in (profile.rest, *profile.blocks))
    return widest if plan.precompute_modulation else 0


def _resident(
    profile: Profile, plan: Plan, optimizer: str, *, average: bool, device_kind: Kind
) -> dict[str, int]:
    """Bytes that are there all the time, by cause."""
    extra = {"gathered": _gathered_bytes(profile, plan)} if plan.shards > 1 else {}
    profile = part_of(profile, plan)
    swapped_blocks = set(plan.swapped_of(len(profile.blocks)))
    stay = [block for number, block in enumerate(profile.blocks) if number not in swapped_blocks]
    rest = profile.rest
    copies = 2 if average and not profile.on_host else 1
    elsewhere = profile.on_host or optimizer_of(optimizer).paged
    trained = MASTER * profile.trained * copies
    if profile.whole:
        trained = profile.whole + MASTER * profile.trained * (copies - 1)
    return {
        "weights": sum(block.weight_bytes[plan.weights] + block.other for block in stay)
        + rest.weight_bytes[plan.compute]
        + rest.other
        + profile.constants,
        "modulations": sum(stored_modulation(block, plan) for block in stay)
        + (0 if plan.precompute_modulation else rest.modulation),
        "trained" if profile.whole else "adapter": trained,
        "optimizer": 0 if elsewhere else state_bytes(profile, plan, optimizer),
        "streaming": slot_bytes(profile, plan) + _passing(profile, plan),
        **extra,
        "workspace": WORKSPACE[device_kind],
        "context": CONTEXT[device_kind],
    }


def _moments(profile: Profile, plan: Plan, accumulation_steps: int) -> Iterator[tuple[float, float]]:
    """(activations, gradients) in bytes when the forward pass ends, then in each block's backward pass."""
    images, blocks = plan.micro_batch, profile.blocks
    dequantize_bytes = _decoding(profile, plan) if plan.weights in CODES else 0
    # What each block keeps for its backward pass, and what of that is there until it begins: all of it, or
    # only the block's input where the block is checkpointed.
    full = [block.saved.at(images) for block in blocks]
    block_bytes = [
        _input(block, plan, full[number]) if number < plan.checkpointed_blocks else full[number]
        for number, block in enumerate(blocks)
    ]
    # Gradients are added to those of the micro-batch before, so from the second one on all are there.
    size = gradient_bytes(profile, plan)
    all_gradients = 0 if profile.on_host else size * profile.learning
    gradients = all_gradients if accumulation_steps > 1 else 0
    # The forward pass is over: everything is stored, and its last operations still hold their own memory.
    yield (
        profile.rest.saved.at(images) + sum(block_bytes) + profile.forward.at(images) + dequantize_bytes,
        gradients,
    )
    # Backwards, from the last block: what lies behind it has its gradients already. At each block all blocks
    # before it are stored, the block itself keeps everything (recomputed, if it was checkpointed), and works.
    earlier = profile.rest.input.at(images) + sum(block_bytes)
    gradients = max(gradients, min(all_gradients, size * profile.head))
    for number in reversed(range(len(blocks))):
        earlier -= block_bytes[number]
        yield earlier + full[number] + _room(profile, plan, number) + dequantize_bytes, gradients
        gradients = min(all_gradients, gradients + size * blocks[number].trained)
    # Before the first block all gradients are there, and only what stands ahead of the blocks is stored.
    yield profile.rest.input.at(images), all_gradients


def _decoding(profile: Profile, plan: Plan) -> int:
    """Bytes that turning codes back into numbers adds to the fullest moment."""
    widest = max((block.widest for block in profile.blocks), default=0)
    size = widest if profile.decoding is None else profile.decoding
    if plan.code_modulations:  # one layer of a block at a time; of how many is not in the profile
        size = max(size, min(2 * widest, max(block.modulation for block in profile.blocks)))
    return size


def _input(block: Block, plan: Plan, full: float) -> float:
    """Bytes that a checkpointed block keeps: never more than it would keep otherwise."""
    attention = block.attention_kept.at(plan.micro_batch) if plan.keep_attention else 0
    return min(full, block.input.at(plan.micro_batch) + attention)


def _room(profile: Profile, plan: Plan, number: int) -> float:
    """Bytes that a block's backward pass needs beyond what it and all before it keep."""
    block = profile.blocks[number]
    block_room, general = (
        (block.recompute_room, profile.recompute)
        if number < plan.checkpointed_blocks
        else (block.backward_room, profile.backward)
    )
    return (general if block_room is None else block_room).at(plan.micro_batch)


def _step(profile: Profile, plan: Plan, optimizer: str) -> tuple[float, float]:
    """The optimizer's own moment."""
    if profile.on_host:
        return 0.0, 0.0
    scratch = scratch_bytes(profile, optimizer) + _portion(profile, plan)
    return scratch, gradient_bytes(profile, plan) * profile.learning


def _fullest(profile: Profile, phase: str, *, layer_by_layer: bool) -> tuple[int, int]:
    """(weights, activations) of the stage of a phase that takes most."""
    stages = [stage for stage in profile.stages if stage.phase == phase]
    sizes = [
        (stage.layerwise_weights if layer_by_layer else stage.weights, stage.activations) for stage in stages
    ]
    return max(sizes, key=sum, default=(0, 0))


def _holes(profile: Profile, plan: Plan) -> float:
    """Bytes that the allocator holds in a training step and cannot hand out, beyond its common slack."""
    images = plan.micro_batch
    full = [block.saved.at(images) for block in profile.blocks]
    recomputed = min(plan.checkpointed_blocks, len(full))
    holes = 0.0
    if recomputed:
        inputs = (
            _input(block, plan, size)
            for block, size in zip(profile.blocks[:recomputed], full[:recomputed], strict=True)
        )
        holes += HOLES * (sum(inputs) + max(full[:recomputed]))
    if not expandable() and full:
        block_bytes = max(size + _room(profile, plan, number) for number, size in enumerate(full))
        holes += GRAIN + SEGMENTS * block_bytes
    return holes


def _need(
    causes: Mapping[str, int],
    activations: float,
    gradients: float,
    device_kind: Kind,
    holes: float = 0.0,
) -> MemoryEstimate:
    """All causes, and what the allocator of a GPU takes beside them."""
    whole = {**causes, "gradients": round(gradients), "activations": round(activations)}
    slack = GRAIN + SLACK * (activations + gradients) + holes if device_kind == "cuda" else 0
    return MemoryEstimate(whole, sum(whole.values()) + round(slack))
