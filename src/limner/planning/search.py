"""The fastest way to compute a run that fits: every combination is looked at, or proved to be no better.

For each weight precision, swap buffer count, micro-batch, and with or without precomputed modulations, kept
attention and compiling, there are (blocks swapped) x (blocks checkpointed) plans. Time never falls when one
block more is checkpointed, so for each number of swapped blocks only the first number of checkpointed ones
that fits can be the fastest. A plan whose computation alone, or whose copies alone, take longer than the best
so far is not timed. What stays in memory does not depend on what is checkpointed, nor what comes and goes on
what is swapped, so each is computed once and a sum says whether a plan fits.

Attention is not searched: "auto" is the fastest kernel that the device has for each shape, found by trying
(``nn.layers.attention``); all fused ones keep the same but for padding, while the plain one keeps a number
for each pair of tokens (``tests/planning/test_profiling.py``).
What attention gave is not kept where blocks are compiled: ``nn.memory.engine`` refuses both at once, as a
graph does not give it out. Modulations are in codes only in NF4: each of their numbers moves a whole channel.
8-bit AdamW is a last resort, as the recipe chose an optimizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from limner.errors import DoesNotFit
from limner.imports import imported
from limner.nn.memory.plan import Plan
from limner.planning import memory
from limner.planning.choice import (
    ENCODING,
    PROCESS,
    Choice,
    PlanRequest,
    assess,
    budget,
    cache_memory,
    encoding,
    fineness,
    fits,
    holds,
    host_memory,
    mechanism_count,
    optimizer_states,
    rank,
    sample_memory,
)
from limner.planning.devices import Device
from limner.planning.profile import Profile
from limner.planning.time import CostModel, accumulation_of, compile_seconds, update_seconds

TIE = 0.03
"""Plans that take at most this share longer than the fastest count as equally fast."""
LEEWAY = 0.01
"""How much longer the chosen plan may take where that leaves more of the device free."""
SHRINK = 0.9
"""What a plan may need of what the plan before it needed, when that ran out of memory."""


def choose(profile: Profile, device: Device, request: PlanRequest) -> Choice:
    """The fastest plan that fits; of those within ``TIE`` of it the most precise, then the simplest.

    Of the plans that are as precise, no less simple, and within ``LEEWAY`` of that one, the smallest. Weights
    are split over processes where nothing else fits, or where they are trained and that is faster: those of a
    full fine-tune, and the heads of a predictor.

    Args:
        profile: Of the base, the adapter and the largest bucket.
        device: Where, and how much memory there is.
        request: What the recipe leaves open.

    Raises:
        DoesNotFit: No plan does. The message has no remedy yet: ``advice`` looks for one.
    """
    whole = _unsplit(profile, device, request) if 1 in request.shards else None
    split = None
    if request.shards[-1] > 1 and request.trained.divides_heads:
        split = _unsplit(profile, device, request, head_shards=request.shards[-1])
    elif request.shards[-1] > 1 and not (whole and request.trained.keeps_blocks):
        split = imported("limner.planning.sharded:sharded")(profile, device, request)
    choices = [choice for choice in (whole, split) if choice]
    if not choices:
        raise DoesNotFit(f"No plan of {profile.base} fits {device.name}.")
    return min(choices, key=lambda choice: choice.step_time.seconds)


def _unsplit(
    profile: Profile, device: Device, request: PlanRequest, *, head_shards: int = 1
) -> Choice | None:
    """The best plan with the whole model in each process; of a predictor's heads perhaps a part."""
    for optimizer_state in optimizer_states(profile, device, request):
        if head_shards > 1 and optimizer_state != "fp32":
            continue
        start = Plan(compute=request.compute, optimizer_state=optimizer_state, head_shards=head_shards)
        space = _Space(profile, device, request, start)
        if plan := space.fastest():
            choice = assess(profile, device, request, plan)
            assert fits(choice, device), plan  # what was summed up is what is counted in one go
            return choice
    return None


def below(
    profile: Profile, device: Device, request: PlanRequest, plan: Plan, *, used_bytes: int | None = None
) -> Choice:
    """The best plan that needs clearly less than one that ran out of memory.

    The precision stays as it is, and so does the optimizer's state. The effective batch and the draws do not
    depend on the plan, so training goes on as it would have.

    Args:
        profile: As in :func:`choose`.
        device: As in :func:`choose`.
        request: As in :func:`choose`.
        plan: What ran out of memory.
        used_bytes: Bytes that it had taken by then; on a processor those of the whole process. Where that is
            more than was predicted, the next plan is expected to exceed its prediction as much.

    Raises:
        DoesNotFit: There is none.
    """
    needs = assess(profile, device, request, plan).needs
    reserved = max(need.reserved for phase, need in needs.items() if phase != "cache")
    process_bytes = PROCESS if device.kind == "cpu" else 0
    excess = max(1.0, (used_bytes - process_bytes) / reserved) if used_bytes else 1.0
    room = min(SHRINK * reserved, budget(device) / excess)
    tighter = replace(device, free=int(room) + device.free - budget(device))
    train_profile = replace(
        profile, stages=tuple(stage for stage in profile.stages if stage.phase != "cache")
    )
    choice = choose(
        train_profile,
        tighter,
        replace(
            request,
            weight_kinds=(plan.weights,),
            optimizer_state=(plan.optimizer_state,),
            code_modulations=plan.code_modulations,
            shards=(plan.parted,),
        ),
    )
    cache_fields = {name: getattr(plan, name) for name in ENCODING[0]}
    return assess(profile, device, request, replace(choice.plan, **cache_fields))


def encoded_below(
    profile: Profile, device: Device, request: PlanRequest, plan: Plan, *, used_bytes: int = 0
) -> Plan:
    """The plan with a way to fill the cache that needs clearly less than its own, which ran out of memory.

    Args:
        profile: As in :func:`choose`.
        device: As in :func:`choose`.
        request: As in :func:`choose`.
        plan: Whose way it was.
        used_bytes: Bytes that it had taken by then, as in :func:`below`.

    Raises:
        DoesNotFit: There is none.
    """
    reserved = cache_memory(profile, plan, device, request).reserved
    room = min(SHRINK * reserved, budget(device) / max(1.0, used_bytes / reserved))
    tighter = replace(device, free=int(room) + device.free - budget(device))
    if smaller := encoding(profile, tighter, plan, request):
        return smaller
    raise DoesNotFit(f"No way to fill the cache of {profile.base} needs clearly less than {reserved} bytes.")


_Storage = tuple[bool, bool, int, int]
"""Mapped; decoded in tiles; bytes that stay through a step; bytes of loading and sampling, the larger."""


@dataclass(frozen=True)
class _Group:
    """Plans that differ in what is checkpointed and swapped alone."""

    plan: Plan
    cost_model: CostModel
    accumulation_steps: int
    extra: float
    """Seconds of a step beside its micro-batches: the update, and its share of compiling."""

    @property
    def least(self) -> float:
        return self.accumulation_steps * self.cost_model.once + self.extra

    def seconds(self, plan: Plan, blocks: int) -> float:
        """Seconds of a step of one of its plans, for a denoiser of so many blocks."""
        seconds, _ = self.cost_model.micro_batch(
            plan.checkpointed_blocks, plan.swapped_of(blocks), mmap_weights=plan.mmap_weights
        )
        return self.accumulation_steps * seconds + self.extra

    def slow(
        self, checkpointed_blocks: int, swapped_blocks: tuple[int, ...], *, mmap_weights: bool = False
    ) -> float:
        """Seconds of a step at least."""
        return (
            self.accumulation_steps
            * self.cost_model.bound(checkpointed_blocks, swapped_blocks, mmap_weights=mmap_weights)
            + self.extra
        )


class _Space:
    """Every plan of a request with one way of storing moments and dividing heads."""

    def __init__(self, profile: Profile, device: Device, request: PlanRequest, start: Plan) -> None:
        self.profile, self.device, self.request = profile, device, request
        self.blocks = len(profile.blocks)
        self.room = budget(device)
        self.start = encoding(profile, device, start, request)
        self.limit = float("inf")
        """Seconds of a step that a plan may take at most to be among the fastest."""
        self.groups: list[_Group] = []
        """Those that can be the fastest come first."""
        self._coming: dict[tuple[object, ...], list[int]] = {}
        self._storage: dict[tuple[object, ...], _Storage | None] = {}

    def fastest(self) -> Plan | None:
        if self.start is None:
            return None
        timings: list[tuple[float, Plan]] = []
        self.groups = sorted(self._groups(), key=lambda group: group.least)
        for group in self.groups:
            if group.least > self.limit:
                break
            for plan in self._plans(group):
                seconds = group.seconds(plan, self.blocks)
                timings.append((seconds, plan))
                self.limit = min(self.limit, seconds * (1 + TIE))
        ties = [(seconds, plan) for seconds, plan in timings if seconds <= self.limit]
        return self._smallest(*min(ties, key=lambda item: rank(*item))) if ties else None

    def _smallest(self, seconds: float, best: Plan) -> Plan:
        """The plan that leaves most of the device free, of those as precise and simple, in its time."""
        self.limit = seconds * (1 + LEEWAY)
        cache_bytes = cache_memory(self.profile, best, self.device, self.request).reserved
        sizes: list[tuple[int, float, Plan]] = []
        for group in (group for group in self.groups if fineness(group.plan) == fineness(best)):
            coming = self._comes(group.plan)
            for plan in self._plans(group):
                if mechanism_count(plan) > mechanism_count(best):
                    continue
                *_, staying, floor = self._keeps(group.plan, plan.swapped_blocks) or (0, 0)
                for count in self._counts(group, plan, mechanism_count(best)):
                    bytes_taken = max(staying + coming[count], floor, cache_bytes)
                    candidate = replace(plan, checkpointed_blocks=count)
                    sizes.append((bytes_taken, group.seconds(candidate, self.blocks), candidate))
        return min(sizes, key=lambda item: item[:2])[2]

    def _counts(self, group: _Group, plan: Plan, mechanisms: int) -> list[int]:
        """Numbers of checkpointed blocks in time: the plan's own, and on to the most, found by halving."""
        start = plan.checkpointed_blocks
        if group.seconds(plan, self.blocks) > self.limit:
            return []
        variant = replace(plan, checkpointed_blocks=max(1, start))
        if "checkpointed_blocks" in self.request.exclusions or mechanism_count(variant) > mechanisms:
            return [start]
        low, high = start, self.blocks
        while low < high:
            middle = (low + high + 1) // 2
            in_time = group.seconds(replace(plan, checkpointed_blocks=middle), self.blocks) <= self.limit
            low, high = (middle, high) if in_time else (low, middle - 1)
        return list(range(start, low + 1))

    def _groups(self) -> Iterator[_Group]:
        profile, device, request = self.profile, self.device, self.request
        assert self.start is not None
        on_card = device.kind == "cuda"
        keepable = any(block.attention_kept.at(1) for block in profile.blocks)
        storage = [
            (kind, way) for kind in request.weights for way in request.modulations(profile, device, kind)
        ]
        for (weights, modulation), gradients, keep, swap_buffers, micro_batch, compiled in product(
            storage,
            ("fp32",) if profile.on_host else request.gradients(device),
            (False, True) if keepable else (False,),
            (2, 3) if on_card and request.trained.keeps_blocks else (2,),
            request.micro_batch_sizes,
            (False, True) if device.compiles and "compile" not in request.exclusions else (False,),
        ):
            if compiled and keep:
                continue  # what a compiled block's attention gives cannot be kept apart
            if weights == "fp8" and "int8" in request.weights and _alike(device, request):
                continue  # as fast as int8, and coarser
            plan = replace(
                self.start,
                weights=weights,
                gradients=gradients,
                matmul_precision=request.matmul_precision,
                keep_attention=keep,
                swap_buffers=swap_buffers,
                micro_batch=micro_batch,
                compile=compiled,
                **modulation,
            )
            update = update_seconds(profile, plan, device, request.optimizer)
            extra = update + compile_seconds(profile, plan) / max(1, request.steps)
            cost_model = CostModel(profile, plan, device, request.teacher_share(plan))
            yield _Group(plan, cost_model, accumulation_of(plan, request.batches), extra)

    def _plans(self, group: _Group) -> Iterator[Plan]:
        """For each number of swapped blocks the plan with the fewest checkpointed ones that fits.

        Left out are those that cannot be among the fastest.
        """
        exclusions = self.request.exclusions
        max_blocks = self.blocks if self.request.swaps(self.device) else 0
        twice = 0 if "checkpointed_blocks" in exclusions else self.blocks
        coming = self._comes(group.plan)
        for swapped_blocks in range(max_blocks + 1):
            if group.plan.swap_buffers > 2 and swapped_blocks < group.plan.swap_buffers:
                continue  # a buffer for each of them is what fewer buffers are as well
            swap_numbers = Plan(swapped_blocks=swapped_blocks).swapped_of(self.blocks)
            if group.slow(0, swap_numbers) > self.limit:
                continue
            if (storage := self._keeps(group.plan, swapped_blocks)) is None:
                continue
            mmap_weights, tiling, staying, _ = storage
            for checkpointed_blocks in range(1 if group.plan.keep_attention else 0, twice + 1):
                if staying + coming[checkpointed_blocks] <= self.room:
                    if group.slow(checkpointed_blocks, swap_numbers, mmap_weights=mmap_weights) <= self.limit:
                        fields = {"mmap_weights": mmap_weights, "decode_tiled": tiling}
                        yield replace(
                            group.plan,
                            swapped_blocks=swapped_blocks,
                            checkpointed_blocks=checkpointed_blocks,
                            **fields,
                        )
                    break

    def _keeps(self, plan: Plan, swapped_blocks: int) -> _Storage | None:
        """How so many swapped blocks are kept and samples generated; None when they cannot be."""
        key = *fineness(plan), plan.precompute_modulation, plan.swap_buffers, swapped_blocks
        if key not in self._storage:
            plain = replace(
                plan, swapped_blocks=swapped_blocks, keep_attention=False, micro_batch=1, compile=False
            )
            self._storage[key] = self._storage_of(plain)
        return self._storage[key]

    def _storage_of(self, plan: Plan) -> _Storage | None:
        """On disk what the host cannot hold, in tiles what does not fit whole."""
        profile, device, request = self.profile, self.device, self.request
        ways = [plan, replace(plan, mmap_weights=True)] if plan.swapped_blocks else [plan]
        hosts = {way: host_memory(profile, way, device, request).values() for way in ways}
        way = next((way for way in ways if holds(device, *hosts[way])), None)
        if way is None:
            return None
        loading = memory.load_memory(profile, way, device_kind=device.kind).reserved
        if loading > self.room:
            return None
        if not request.sampling:
            return way.mmap_weights, False, self._stays(way), loading
        for tiling in (False, True):
            sampling = sample_memory(profile, replace(way, decode_tiled=tiling), device, request).reserved
            if sampling <= self.room:
                return way.mmap_weights, tiling, self._stays(way), max(loading, sampling)
        return None

    def _comes(self, plan: Plan) -> list[int]:
        """Bytes that come and go in a step, by the number of checkpointed blocks."""
        quantized = plan.weights in memory.CODES
        key = plan.micro_batch, plan.keep_attention, plan.precompute_modulation, quantized
        key = *key, plan.gradients, plan.code_modulations
        if key not in self._coming:
            plans = [
                replace(plan, swap_buffers=2, checkpointed_blocks=count) for count in range(self.blocks + 1)
            ]
            needs = [self._train(candidate) for candidate in plans]
            staying = self._stays(plans[0])  # whatever is checkpointed
            self._coming[key] = [need.reserved - staying for need in needs]
        return self._coming[key]

    def _stays(self, plan: Plan) -> int:
        words = {"optimizer": self.request.optimizer, "average": self.request.average}
        return memory.staying(self.profile, plan, device_kind=self.device.kind, **words)

    def _train(self, plan: Plan) -> memory.MemoryEstimate:
        request = self.request
        return memory.train_memory(
            self.profile,
            plan,
            optimizer=request.optimizer,
            accumulation_steps=accumulation_of(plan, request.batches),
            average=request.average,
            device_kind=self.device.kind,
        )


def _alike(device: Device, request: PlanRequest) -> bool:
    """Whether int8 and fp8 take the same time, as nobody has measured that they do not."""
    rates = device.rates
    if request.matmul_precision == "8bit":
        return rates.eight.get("int8") == rates.eight.get("fp8")
    return not rates.expand
