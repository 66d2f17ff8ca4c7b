"""How long a plan takes: a roofline over the work of a profile, and a timeline of what is swapped. No torch.

Blocks run one after another; each takes the time of its matrix products, its attention and its other traffic
at the rates that the device reaches, or the time that the host takes to launch its kernels where that is
longer: what the host gains on a busy device in one block is not set off against the next. Weights that
are stored coarser are turned back each time they are read. Swapped blocks come over one copy engine into
``swap_buffers`` buffers, ahead of their use in both directions, and never go back. Precomputed modulations
come over the same engine, in the order of the blocks that read what they give, as the forward pass begins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

from limner.imports import imported
from limner.nn.memory.plan import BITS, Compute, Plan, Weights
from limner.planning import devices
from limner.planning.devices import COMPILING, HOST_TRAFFIC, Device
from limner.planning.memory import MASTER, frozen_bytes, part_of, state_bytes
from limner.planning.profile import Block, OpCounts, Profile, Stage

UPDATE = 24
"""Bytes moved for each trained number at a step beside the optimizer's state, which is read and written: the
weight read and written, the gradient read to be measured, to be clipped and to be used, and made."""
HALVING, HALVING_LAUNCHES = 12, 3
"""Bytes more for each number, launches more for each tensor, where gradients wait in bf16: cast twice."""
UPDATE_LAUNCHES = 0.6
"""Launches' worth of the host's time for each trained tensor at a step: its gradient is measured, clipped and
used with all others. Measured with 42 to 2000 of them: 9 to 11 microseconds, where a launch took 18."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step."""

    seconds: float
    """All of it."""
    waiting: float = 0.0
    """Part that computation waits for copies."""
    repeated: float = 0.0
    """Part that computes again what checkpointing did not keep."""
    optimizer: float = 0.0
    """Part after the last backward pass."""


@dataclass(frozen=True)
class Total:
    """Seconds of a whole run, by phase."""

    load: float
    cache: float
    train: float
    sample: float
    compile: float = 0.0
    measure: float = 0.0
    """The validation loss."""
    save: float = 0.0
    """Checkpoints, each written and read back."""

    @property
    def seconds(self) -> float:
        """All phases together."""
        return self.load + self.cache + self.train + self.sample + self.compile + self.measure + self.save


def seconds_of(
    work: OpCounts,
    device: Device,
    compute: Compute,
    images: int,
    *,
    weights: Weights = "fp32",
    backward: bool = False,
    compiled: bool = False,
) -> float:
    """Seconds that a device takes for some work.

    Args:
        work: FLOPs, bytes and launches.
        device: Whose rates.
        compute: Precision of the arithmetic.
        images: Images that pass at once.
        weights: How those are stored that 8-bit products read.
        backward: At the rate of attention's backward kernels.
        compiled: With the traffic and launches that are left when a block is compiled.
    """
    rates = device.rates
    attention = (rates.attention_backward if backward else rates.attention)[compute]
    if compiled:
        coding = work.coding.at(images)  # which a compiler fuses into two kernels
        traffic_bytes = devices.COMPILED_TRAFFIC * (work.traffic.at(images) - coding)
        traffic_seconds = (traffic_bytes + devices.COMPILED_CODING * coding) / rates.traffic
    else:
        traffic_seconds = work.traffic.at(images) / (rates.eager or rates.traffic)
    launches = work.kernels * rates.launch * (devices.COMPILED_LAUNCHES if compiled else 1.0)
    busy = (
        work.gemm.at(images) / rates.gemm[compute]
        + work.w8a8.at(images) / rates.multiplying(weights, compute)
        + work.attention.at(images) / attention
        + traffic_seconds
    )
    return busy + launches if device.kind == "cpu" else max(busy, launches)


class CostModel:
    """Seconds of every block of a profile under one way of computing, whatever is kept, swapped or copied.

    Args:
        profile: Of the base, the adapter and the bucket.
        plan: Its blocks that are checkpointed or swapped, and whether those are mapped, are not looked at.
        device: Where.
        teacher_share: Forward passes of the bare base for each micro-batch.
    """

    def __init__(self, profile: Profile, plan: Plan, device: Device, teacher_share: float = 0.0) -> None:
        self.profile, self.plan, self.device = profile, plan, device
        images, rest, blocks = plan.micro_batch, profile.rest, profile.blocks
        block_seconds: list[tuple[float, float, float]] = []
        for number, block in enumerate(blocks):
            is_repeat = number and block == blocks[number - 1]  # most of a model's blocks are
            block_seconds.append(block_seconds[-1] if is_repeat else self._all(block))
        self.forward, self.backward, self.recompute = (
            [entry[index] for entry in block_seconds] for index in range(3)
        )
        self.outside_seconds = seconds_of(rest.forward, device, plan.compute, images)
        """Seconds of a forward pass outside the blocks."""
        self.rest = self.outside_seconds + seconds_of(
            rest.backward, device, plan.compute, images, backward=True
        )
        modulations = [block.modulation if plan.precompute_modulation else 0 for block in (*blocks, rest)]
        self.modulation_bytes = sum(modulations)
        """Bytes of modulations that come in a forward pass."""
        self.ahead = [
            (modulation / device.rates.copy, modulation / device.rates.traffic) for modulation in modulations
        ]
        """Of every block, and of what is behind the last, seconds to copy and to read its modulations."""
        self.giving = _giving(profile, device)
        self.bytes = [frozen_bytes(block, plan) for block in blocks]
        self.repeated = [0.0, *accumulate(self.recompute)]
        self.teacher_share = teacher_share
        bare_seconds = teacher_share * (sum(self.forward) + self.outside_seconds)
        self.once = sum(self.forward) + sum(self.backward) + self.rest + self.giving + bare_seconds
        if plan.head_shards > 1:
            passing = imported("limner.planning.shards:exchanged_bytes")(profile, plan)
            self.once += passing / device.rates.link

    def _all(self, block: Block) -> tuple[float, float, float]:
        return (
            self._seconds(block, block.forward),
            self._seconds(block, block.backward, backward=True),
            self._again(block),
        )

    def _seconds(self, block: Block, work: OpCounts, *, backward: bool = False) -> float:
        plan = self.plan
        seconds = seconds_of(
            work,
            self.device,
            plan.compute,
            plan.micro_batch,
            weights=plan.weights,
            backward=backward,
            compiled=plan.compile,
        )
        return seconds + self._expanding(block)

    def _expanding(self, block: Block) -> float:
        if self.plan.matmul_precision == "8bit":
            return 0.0  # codes are multiplied as they are; what is done to them is part of the block's work
        size = block.weight_bytes[self.plan.compute] + block.modulation * self.plan.code_modulations
        numbers = size * 8 / BITS[self.plan.compute]
        return numbers * self.device.rates.expanding(self.plan.weights, self.plan.compute)

    def _again(self, block: Block) -> float:
        plan = self.plan
        skips = [replace(block.tail, kernels=0)] if plan.tail_skip else []
        if plan.keep_attention:
            skips.append(OpCounts(attention=block.forward.attention))
        saved = sum(
            seconds_of(work, self.device, plan.compute, plan.micro_batch, weights=plan.weights)
            for work in skips  # without launches: what skipping saves for certain
        )
        return max(0.0, self._seconds(block, block.forward) - saved)

    def bound(
        self, checkpointed_blocks: int, swapped_blocks: Sequence[int], *, mmap_weights: bool = False
    ) -> float:
        """Seconds that a micro-batch takes at least: all its computation, or all its copies."""
        # what is in the buffers when a pass turns round need not come again
        copy_bytes = [self.bytes[n] for n in swapped_blocks]
        stay = 2 * sum(sorted(copy_bytes)[-max(2, self.plan.swap_buffers) :])
        passing = max(0, 2 * sum(copy_bytes) - stay) + self.teacher_share * sum(copy_bytes)
        copies = (passing + self.modulation_bytes) / self._copy(mmap_weights=mmap_weights)
        return max(self.once + self.repeated[checkpointed_blocks], copies)

    def _copy(self, *, mmap_weights: bool) -> float:
        rates = self.device.rates
        return min(rates.copy, rates.disk) if mmap_weights else rates.copy

    def micro_batch(
        self, checkpointed_blocks: int, swapped_blocks: Sequence[int], *, mmap_weights: bool = False
    ) -> tuple[float, float]:
        """Seconds of a micro-batch in the middle of a run, and those of them that are waited for copies."""
        if self.plan.shards > 1:
            return imported("limner.planning.shards:seconds")(self, checkpointed_blocks)
        blocks = range(len(self.forward))
        back = [self.backward[n] + (self.recompute[n] if n < checkpointed_blocks else 0.0) for n in blocks]
        busy = self.once + self.repeated[checkpointed_blocks]
        if not swapped_blocks and not self.modulation_bytes:
            return busy, 0.0
        copy = self._copy(mmap_weights=mmap_weights)
        slower = self.device.rates.copy / copy
        ahead = [copying * slower + reading for copying, reading in self.ahead]
        swap_set = set(swapped_blocks)
        passes = [(n, self.forward[n]) for n in blocks] + [(n, back[n]) for n in reversed(blocks)]
        uses = [(seconds, self.bytes[n] / copy if n in swap_set else 0.0, n) for n, seconds in passes]
        waiting_of = imported("limner.planning.copies:waiting_of")
        waiting = waiting_of(
            uses, max(2, self.plan.swap_buffers), self.rest, ahead if self.modulation_bytes else []
        )
        copying = sum(self.bytes[n] for n in swap_set) / copy
        waiting += self.teacher_share * max(0.0, copying - sum(self.forward))
        return busy + waiting, waiting

    def step_time(self, plan: Plan, accumulation_steps: int, update: float) -> StepTime:
        """Seconds of an optimizer step of so many micro-batches and ``update`` seconds at its end."""
        swapped_blocks = plan.swapped_of(len(self.forward))
        seconds, waiting = self.micro_batch(
            plan.checkpointed_blocks, swapped_blocks, mmap_weights=plan.mmap_weights
        )
        if (passes := self.profile.passes) > 1:  # the steps of a student: forward once, then step by step
            seconds = passes * (seconds + sum(self.forward) + self.outside_seconds)
            waiting *= passes
        return StepTime(
            seconds=accumulation_steps * seconds + update,
            waiting=accumulation_steps * waiting,
            repeated=accumulation_steps * self.repeated[min(plan.checkpointed_blocks, len(self.recompute))],
            optimizer=update,
        )


def _giving(profile: Profile, device: Device) -> float:
    """Seconds in which gradients go to the host and are summed there.

    What of it hides behind the backward pass is not known before a GPU has measured it, so all of it counts.
    """
    seconds = profile.whole / device.rates.copy + 2 * MASTER * profile.learning / HOST_TRAFFIC
    return seconds if profile.on_host else 0.0


def update_seconds(profile: Profile, plan: Plan, device: Device, optimizer: str) -> float:
    """Seconds of the optimizer's step: bytes and launches, and summing gradients over processes."""
    halves = plan.gradients == "bf16"
    summing = 0.0
    if device.processes > 1:
        summing = imported("limner.planning.shards:summing_seconds")(profile, plan, device)
    profile = part_of(profile, plan)
    bytes_moved = (UPDATE + HALVING * halves) * profile.learning + 2 * state_bytes(profile, plan, optimizer)
    if profile.on_host:
        return bytes_moved / HOST_TRAFFIC + profile.whole / device.rates.copy + summing
    launches = (UPDATE_LAUNCHES + HALVING_LAUNCHES * halves) * profile.tensors * device.rates.launch
    busy = bytes_moved / device.rates.traffic
    return summing + (busy + launches if device.kind == "cpu" else max(busy, launches))


def accumulation_of(plan: Plan, batches: Iterable[int]) -> int:
    """Micro-batches of a step: each sort of image (one's own, the prior's) fills its own."""
    return sum(ceil(batch / plan.micro_batch) for batch in batches)


def step_time_of(
    profile: Profile,
    plan: Plan,
    device: Device,
    *,
    batches: Sequence[int] = (1,),
    optimizer: str = "adamw",
    teacher_share: float = 0.0,
) -> StepTime:
    """Seconds of one optimizer step.

    Args:
        profile: Of the base, the adapter and the largest bucket.
        plan: How it is computed.
        device: Where.
        batches: Images per step, of each sort.
        optimizer: The recipe's.
        teacher_share: Forward passes of the bare base for each micro-batch.
    """
    update = update_seconds(profile, plan, device, optimizer)
    return CostModel(profile, plan, device, teacher_share).step_time(
        plan, accumulation_of(plan, batches), update
    )


def compile_seconds(profile: Profile, plan: Plan) -> float:
    """Seconds of compiling, once: one graph for each sort of block."""
    return COMPILING * len({block.kind for block in profile.blocks}) if plan.compile else 0.0


def stage_seconds(stage: Stage, device: Device, plan: Plan) -> float:
    """Seconds of a stage for one image; what is swapped comes while the later half of it computes."""
    seconds = seconds_of(stage.work, device, plan.compute, 1, weights=plan.weights)
    stored_bytes = stage.swapped_bytes * BITS[plan.weights] / BITS[plan.compute]
    return max(seconds, seconds / 2 + stored_bytes / device.rates.copy)


def total_of(
    profile: Profile,
    plan: Plan,
    device: Device,
    step_time: StepTime,
    *,
    steps: int,
    counts: Mapping[str, int],
) -> Total:
    """Seconds of a whole run.

    Args:
        profile: With its stages.
        plan: How it is computed.
        device: Where.
        step_time: Of one step.
        steps: Optimizer steps.
        counts: How often each stage runs, by :attr:`Stage.times`.
    """
    seconds = {"cache": 0.0, "sample": 0.0}
    for stage in profile.stages:
        seconds[stage.phase] += counts.get(stage.times, 0) * stage_seconds(stage, device, plan)
    return Total(
        load=profile.download / device.rates.disk,
        cache=seconds["cache"],
        train=steps * step_time.seconds,
        sample=seconds["sample"],
        compile=compile_seconds(profile, plan),
    )
