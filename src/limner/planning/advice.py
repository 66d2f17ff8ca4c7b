"""What else could be done: the alternatives to a plan and what each costs, or what would make a run fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from limner.errors import DoesNotFit
from limner.nn.memory.plan import BITS, CAUSES, Plan
from limner.planning.choice import ENCODING, FINENESS, Choice, PlanRequest, assess, budget, fits
from limner.planning.devices import Device
from limner.planning.memory import CODES, MemoryEstimate
from limner.planning.profile import Profile
from limner.planning.search import choose
from limner.recipe.fields import label
from limner.recipe.optimizers import optimizer_of

MAX_ALTERNATIVES = 3
SIZES = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141, 180, 192)
"""Memory of cards that are sold, in units of 2^30 bytes."""
HOSTS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SMALLER = (1024, 768, 512, 256)
MAX_RESOLUTIONS = 2
"""Resolutions that are tried when nothing fits, and how many of them: each may have to be traced."""

WORTH, MOST = 0.05, 0.75
"""Share of a step that more memory in the computer must save to be worth a word, and share of what any amount
of it would save that is enough."""
EMPTY, GAIN = 0.75, 0.02
"""A device used up to this share has room for a larger batch, which must save that share per image."""
FACTORS = (8, 4, 2)
MAX_BATCH = 16
"""Times the batch, and images of one, that are offered at most."""


@dataclass(frozen=True)
class Alternative:
    """Another way to compute the same run."""

    label: str
    """In words: "weights bf16"."""
    choice: Choice
    fits: bool
    """Whether it fits the device as it is."""
    change: float
    """Seconds of an image, relative to the plan: 0.12 is 12 % slower."""
    batch: int | None = None
    """Images of a step, where they are not as many as in the plan."""


def alternatives(
    profile: Profile, device: Device, request: PlanRequest, best: Choice
) -> tuple[Alternative, ...]:
    """The nearest other ways, those with nearly the same speed first; at most ``MAX_ALTERNATIVES``.

    Other precisions, whatever the floor; without streaming, checkpointing or compiling; and what the next
    larger card would allow. Before them what is had for nothing: more memory in the computer where that is
    worth it, and a larger batch where the device stays empty.

    Args:
        profile: As in :func:`limner.planning.search.choose`.
        device: As there.
        request: As there.
        best: What it chose.
    """
    options: list[Alternative] = []
    plans = {best.plan}
    for name, target, variant in _others(device, request, best):
        try:
            choice = choose(profile, target, variant)
        except DoesNotFit:
            continue
        if choice.plan in plans:
            continue
        plans.add(choice.plan)
        change = choice.step_time.seconds / best.step_time.seconds - 1
        options.append(Alternative(name, choice, fits(choice, device), change))
    options = sorted(options, key=lambda option: abs(option.change))[:MAX_ALTERNATIVES]
    return (
        *_larger_host(profile, device, request, best),
        *_larger_batch(profile, device, request, best),
        *options,
    )


def _larger_host(
    profile: Profile, device: Device, request: PlanRequest, best: Choice
) -> Iterator[Alternative]:
    """The least memory of the computer by which a step gains most of what it can gain so, if that is much."""
    short = best.plan.mmap_weights or best.plan.swapped_blocks or best.plan.encode_mapped
    sizes = [size for size in HOSTS if size * 2**30 > device.ram * 1.1]
    if device.kind != "cuda" or not short or not sizes:
        return
    seconds = best.step_time.seconds
    choices = {sizes[-1]: choose(profile, device.with_ram(sizes[-1] * 2**30), request)}
    gain = 1 - choices[sizes[-1]].step_time.seconds / seconds
    if gain < WORTH:
        return
    low, high = 0, len(sizes) - 1
    while low < high:
        size = sizes[(low + high) // 2]
        choices[size] = choose(profile, device.with_ram(size * 2**30), request)
        enough = 1 - choices[size].step_time.seconds / seconds >= MOST * gain
        low, high = (low, (low + high) // 2) if enough else ((low + high) // 2 + 1, high)
    choice = choices[sizes[low]]
    change = choice.step_time.seconds / seconds - 1
    yield Alternative(f"{sizes[low]} GB of RAM (limits.ram)", choice, fits=False, change=change)


def _larger_batch(
    profile: Profile, device: Device, request: PlanRequest, best: Choice
) -> Iterator[Alternative]:
    """The largest batch that passes at once by no more mechanisms, and takes less time per image."""
    if device.kind != "cuda" or best.reserved > EMPTY * budget(device) or request.micro_batch:
        return
    own, *prior = request.batches
    for factor in FACTORS:
        if factor * own > MAX_BATCH:
            continue
        larger = replace(request, batches=(factor * own, *prior), weight_kinds=(best.plan.weights,))
        plan = replace(best.plan, micro_batch=factor * own)
        choice = assess(profile, device, larger, plan)
        change = choice.step_time.seconds / factor / best.step_time.seconds - 1
        if fits(choice, device) and change < -GAIN:
            label = f"batch {factor * own} (--batch {factor * own})"
            yield Alternative(label, choice, fits=True, change=change, batch=factor * own)
            return


def _others(device: Device, request: PlanRequest, best: Choice) -> Iterator[tuple[str, Device, PlanRequest]]:
    plan = best.plan
    for weights in reversed(FINENESS) if request.trained.keeps_blocks else ():
        if weights in (plan.weights, "fp8") or BITS[weights] > BITS[plan.compute]:
            continue
        if request.matmul_precision == "8bit":
            continue  # other weights are not multiplied in 8 bits
        if weights in CODES or weights == plan.compute:
            yield f"weights {weights}", device, replace(request, weight_kinds=(weights,))
    same_weights = replace(request, weight_kinds=(plan.weights,))
    for mechanism, words in (
        ("swapped_blocks", "no block swap"),
        ("checkpointed_blocks", "no gradient checkpointing"),
        ("compile", "no torch.compile"),
    ):
        if getattr(plan, mechanism):
            yield words, device, replace(same_weights, exclusions=frozenset({mechanism}))
    if device.kind == "cuda":
        larger = next(iter(larger_cards(device)), None)
        if larger:
            larger_device = device.with_memory(larger * 2**30)
            yield f"a card of {larger} GB", larger_device, request


def least(profile: Profile, device: Device, request: PlanRequest) -> Choice:
    """The plan that needs least of all that are allowed, whether it fits or not."""
    blocks = len(profile.blocks)
    optimizer_state = (
        "8bit" if optimizer_of(request.optimizer).in_8_bits and "8bit" in request.optimizer_state else "fp32"
    )
    divides = request.trained.divides_heads
    shards = 1 if divides else request.shards[0]
    moves = device.kind == "cuda" and request.trained.keeps_blocks and shards == 1
    small = device.kind == "cuda" and request.min_weight_precision != "16bit"
    small = small and not (divides and request.shards[-1] > 1)
    plans = [
        (
            Plan(
                compute=request.compute,
                weights=weights,
                matmul_precision=request.matmul_precision,
                checkpointed_blocks=checkpointed_blocks,
                swapped_blocks=blocks if moves else 0,
                shards=shards,
                head_shards=request.shards[-1] if divides else 1,
                gradients="fp32" if profile.on_host else request.gradients(device)[-1],
                optimizer_state="host" if profile.on_host else optimizer_state if small else "fp32",
                mmap_weights=mmap_weights,
                decode_tiled=True,
            ),
            way,
        )
        for weights in request.weights
        for checkpointed_blocks in {0, max(0, blocks - 1), blocks}  # the last is there already when it is due
        for way in request.modulations(profile, device, weights)
        for mmap_weights in {False, moves}
    ]
    choices = (assess(profile, device, request, replace(plan, **ENCODING[-1], **way)) for plan, way in plans)
    return min(choices, key=lambda choice: (choice.reserved, choice.host.total))


@dataclass(frozen=True)
class Misfit:
    """Why nothing fits, and what would."""

    smallest: Choice
    phase: str
    need: MemoryEstimate
    cause: str
    """The largest in that phase."""
    remedies: tuple[str, ...]
    """Each alone makes the run fit."""
    free: int
    ram: int = 0
    """Bytes that the host may give."""
    pinned: int = 0
    """Bytes of them that may be locked."""

    def __str__(self) -> str:
        """One line for people."""
        ways = "; or ".join(self.remedies) or "choose a smaller base"
        reason = self._on_device if self.need.reserved > self.free else self._on_host
        return f"Nothing fits: {reason}. What would do: {ways}."

    @property
    def _on_device(self) -> str:
        share = label(self.need.causes[self.cause])
        return (
            f"while it {DOING[self.phase]} it takes {label(self.need.reserved)} at least, and may use "
            f"{label(max(0, self.free))}. Most of it is {CAUSES[self.cause]} ({share})"
        )

    @property
    def _on_host(self) -> str:
        """By the limit that is exceeded most: the host's memory, or what of it may be locked."""
        phase, host = max(self.smallest.hosts.items(), key=lambda item: item[1].total)
        pin_phase, pin = max(self.smallest.hosts.items(), key=lambda item: item[1].pinned)
        if pin.pinned * self.ram > host.total * self.pinned:
            return (
                f"while it {DOING[pin_phase]} it locks {label(pin.pinned)} of the computer's memory for the "
                f"device at least, and may lock {label(self.pinned)}"
            )
        if self.smallest.plan.optimizer_state == "host":
            return (
                f"weights, gradients and the optimizer's state in the host's memory take "
                f"{label(host.total)}, and may use {label(self.ram)}"
            )
        return (
            f"while it {DOING[phase]} it takes {label(host.total)} of the computer's memory at least, and "
            f"may use {label(self.ram)}"
        )


DOING = {
    "load": "loads",
    "cache": "fills the cache",
    "train": "trains",
    "save": "saves",
    "sample": "renders samples",
}
"""Phase -> what a run does then."""


def misfit(
    profile: Profile,
    device: Device,
    request: PlanRequest,
    *,
    profile_at: Callable[[int], Profile] | None = None,
) -> Misfit:
    """Find out what stands in the way of a run that fits no plan.

    Args:
        profile: As in :func:`limner.planning.search.choose`, which found nothing.
        device: As there.
        request: As there.
        profile_at: Gives the profile at another resolution, where that may be changed.
    """
    smallest = least(profile, device, request)
    phase, need = max(smallest.needs.items(), key=lambda item: item[1].reserved)
    causes = {cause: size for cause, size in need.causes.items() if cause not in ("context", "workspace")}
    remedies = tuple(_remedies(profile, device, request, profile_at))
    largest = max(causes, key=lambda cause: causes[cause])
    limits = budget(device), device.ram, device.pinned
    return Misfit(smallest, phase, need, largest, remedies, *limits)


def _remedies(
    profile: Profile, device: Device, request: PlanRequest, profile_at: Callable[[int], Profile] | None
) -> Iterator[str]:
    """Changes each of which makes the run fit: the nearest of each sort."""
    for precision in ("8bit", "4bit"):
        coarser = replace(request, min_weight_precision=precision)
        if len(coarser.weights) > len(request.weights) and _fits(profile, device, coarser):
            yield f"--weights-precision {precision}"
            break
    if request.sampling and _fits(profile, device, replace(request, sampling=False)):
        yield "--sample-every -1, and generate afterwards"
    side = max(profile.size)
    smaller = [resolution for resolution in SMALLER if resolution < side][:MAX_RESOLUTIONS]
    for resolution in smaller if profile_at else ():
        if profile_at and _fits(profile_at(resolution), device, request):
            yield f"--resolution {resolution}"
            break
    if device.kind == "cuda":
        yield from _bought(profile, device, request)
        return
    for size in HOSTS:
        if size * 2**30 > device.memory and _fits(
            profile, device.with_ram(round(size * 0.9 * 2**30)), request
        ):
            yield f"{size} GB of memory"
            break


def larger_cards(device: Device) -> tuple[int, ...]:
    """Memory of cards that are sold with clearly more than a device has, in units of 2^30 bytes."""
    return tuple(size for size in SIZES if size * 2**30 > 1.1 * device.memory)


def _bought(profile: Profile, device: Device, request: PlanRequest) -> Iterator[str]:
    for size in larger_cards(device):
        larger = device.with_memory(size * 2**30)
        if larger.free > device.free and _fits(profile, larger, request):
            yield f"a card of {size} GB"
            break
    for size in HOSTS:
        roomy = device.with_ram(round(size * 0.9 * 2**30))
        if roomy.ram > device.ram and _fits(profile, roomy, request):
            yield f"{size} GB of memory in the computer (limits.ram)"
            break


def _fits(profile: Profile, device: Device, request: PlanRequest) -> bool:
    try:
        return bool(choose(profile, device, request))
    except DoesNotFit:
        return False
