"""A plan in words and tables, for people."""

from collections.abc import Iterator

from limner.files import human
from limner.planning.advice import CAUSES, DOING, Alternative
from limner.planning.cards import PRICES
from limner.planning.choice import Choice, budget
from limner.planning.plan import BITS, Plan
from limner.planning.planner import Planned
from limner.planning.time import compile_seconds
from limner.recipe.size import label

PHASES = {"load": "loading", "cache": "filling the cache", "train": "training", "sample": "painting samples"}

DISK = {
    "download": "to fetch",
    "cache": "cache",
    "checkpoints": "checkpoints",
    "model": "the trained model",
    "mapped": "weights that memory is short for",
}
"""What lies on the disk -> what it is called."""

MOMENTS = {
    "8bit": ", the optimizer's state in 8 bits",
    "host": "; they and the optimizer are in the host's memory, the device has a copy to compute with",
}
"""How the optimizer's state is kept -> what is said of it."""

ASIDE = {
    "encode_streamed": "encoders come layer by layer while the cache is filled",
    "encode_mapped": "encoders lie on the disk meanwhile, as the computer's memory is short",
    "encode_tiled": "images are encoded in tiles",
    "decode_tiled": "samples are decoded in tiles",
}
"""Field of a plan -> what is done when it is set."""


def lines(planned: Planned) -> list[str]:
    """Everything that a person wants to know of a plan, from what matters most on."""
    if planned.choice is None:
        return [_title(planned), "", str(planned.misfit)]
    return [
        _title(planned),
        "",
        *_memory(planned, planned.choice),
        "",
        "The plan",
        *(f"  {each}" for each in sentences(planned, planned.choice)),
        "",
        *_time(planned, planned.choice),
        "",
        *_others(planned),
        f"Rates: {planned.device.source}.",
    ]


def _title(planned: Planned) -> str:
    profile, device = planned.profile, planned.device
    width, height = profile.size
    sort = "at" if planned.counts.assumed else "largest bucket"
    left = f", {label(device.reserve)} left to the desktop and others" if device.reserve else ""
    return (
        f"{profile.base}, {sort} {width} x {height}, {profile.trained:,} trained numbers, on {device.name}: "
        f"{label(device.memory)}{left}"
    )


def _memory(planned: Planned, choice: Choice) -> Iterator[str]:
    need = choice.needs["train"]
    yield "Where the memory goes while it trains"
    for cause, size in sorted(need.causes.items(), key=lambda one: -one[1]):
        if size >= 2**20:
            yield f"  {CAUSES[cause]:<28} {label(size):>9}"
    slack = need.reserved - need.total
    if slack >= 2**20:
        yield f"  {'held by the allocator':<28} {label(slack):>9}"
    room = label(budget(planned.device))
    yield f"  {'in all':<28} {label(need.reserved):>9} of {room} that may be used"
    peaks = [f"{PHASES[phase]} {label(each.reserved)}" for phase, each in choice.needs.items()]
    yield f"At most: {', '.join(peaks)}"
    host = choice.host
    if planned.device.kind != "cpu":
        when = next(phase for phase, each in choice.hosts.items() if each is host)
        locked = f", {label(host.pinned)} of it locked for copies" if host.pinned else ""
        yield f"Host: at most {label(host.total)}{locked}, while it {DOING[when]}"
    disk = [f"{DISK[what]} {human(size)}" for what, size in planned.disk.items() if size]
    yield f"Disk: {', '.join(disk)}"


def sentences(planned: Planned, choice: Choice) -> Iterator[str]:
    """A plan, one decision a sentence."""
    plan, blocks = choice.plan, len(planned.profile.blocks)
    state = MOMENTS.get(plan.optimizer_state, "")
    yield f"{_precision(planned, plan)}{state}"
    if plan.checkpointed_blocks:
        kept = ", but for their attention, which is kept" if plan.keep_attention else ""
        yield f"{plan.checkpointed_blocks} of {blocks} blocks are computed again for their gradient{kept}"
    else:
        yield "nothing is computed twice"
    if plan.swapped_blocks:
        where = "from the disk" if plan.mmap_weights else "from the host's memory"
        yield f"{min(plan.swapped_blocks, blocks)} of {blocks} blocks come {where} when they are due"
    elif planned.device.kind == "cuda":
        yield "all blocks stay on the device"
    if plan.precompute_modulation:
        yield "modulations are computed once per step, before the blocks; their weights stay away"
    images = sum(planned.request.batches)
    if images > 1:
        yield f"{images} images per step, {plan.micro_batch} at a time"
    if plan.compile:
        seconds = compile_seconds(planned.profile, plan)
        yield f"blocks are compiled, which takes about {duration(seconds)} once"
    yield from (words for field, words in ASIDE.items() if getattr(plan, field))


def _precision(planned: Planned, plan: Plan) -> str:
    if planned.request.full:
        return f"all weights are trained, in fp32; arithmetic in {plan.compute}"
    if plan.weights == plan.compute:
        return f"weights and arithmetic in {plan.compute}"
    eight = ", multiplied in 8 bits forward and backward" if plan.matmul_precision == "8bit" else ""
    stored = f"weights of the blocks in {BITS[plan.weights]} bits ({plan.weights}){eight}"
    return f"{stored}, arithmetic in {plan.compute}"


def _time(planned: Planned, choice: Choice) -> Iterator[str]:
    step_time, total = choice.step_time, planned.total
    assert total is not None
    parts = {"waiting for copies": step_time.waiting, "computing again": step_time.repeated}
    spent = [f"{_seconds(each)} {what}" for what, each in parts.items() if each > 0.005 * step_time.seconds]
    aside = f" ({', '.join(spent)})" if spent else ""
    steps = f"{planned.request.steps} steps in {duration(total.train)}"
    yield f"Time: {_seconds(step_time.seconds)} per step{aside}; {steps}"
    others = {
        "loading": total.load,
        "cache": total.cache,
        "samples": total.sample,
        "held-out loss": total.measure,
        "saving": total.save,
        "compiling": total.compile,
    }
    beside = ", ".join(f"{what} {duration(each)}" for what, each in others.items() if each >= 1)
    guess = f" for {planned.counts.images} images, a guess" if planned.counts.assumed else ""
    yield f"In all: {duration(total.seconds)}{guess}{f' ({beside})' if beside else ''}"
    if planned.cost is not None:
        source = "" if planned.price != planned.device.price else f": {PRICES}"
        yield f"Rented: ${planned.cost:.2f} at ${planned.price:.2f} an hour{source}"


def _others(planned: Planned) -> Iterator[str]:
    if not planned.others:
        return
    yield "Instead"
    for each in planned.others:
        yield f"  {each.what}: {_cost(each)}"
    yield ""


def _cost(each: Alternative) -> str:
    seconds = each.choice.step_time.seconds
    if abs(each.change) < 0.005:
        speed = "as fast"
    else:
        speed = f"{abs(each.change):.0%} {'slower' if each.change > 0 else 'faster'}"
    return f"{speed} ({_seconds(seconds)} per step), {label(each.choice.reserved)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def duration(seconds: float) -> str:
    """Seconds for people: ``duration(5000) == "1 h 23 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
