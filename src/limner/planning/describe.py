"""A plan in words and tables, for people."""

from collections.abc import Iterator

from limner.files import human
from limner.nn.memory.plan import Plan
from limner.planning.advice import CAUSES, DOING, Alternative
from limner.planning.cards import PRICES
from limner.planning.choice import Choice, budget
from limner.planning.planner import Planned
from limner.planning.time import accumulation_of, compile_seconds
from limner.recipe.size import label

PHASES = {"load": "loading", "cache": "caching", "train": "training", "sample": "sampling"}

DISK = {
    "download": "download",
    "cache": "cache",
    "checkpoints": "checkpoints",
    "model": "trained model",
    "mapped": "memory-mapped weights",
}
"""What lies on the disk -> what it is called."""

MOMENTS = {
    "8bit": "8-bit AdamW",
    "host": "optimizer offload: fp32 weights, gradients and optimizer states in CPU RAM, a copy in VRAM",
}
"""How the optimizer's state is kept -> what is said of it."""

ASIDE = {
    "encode_streamed": "encoder offload while caching: layer by layer",
    "encode_mapped": "encoders memory-mapped from disk meanwhile, as CPU RAM is short",
    "encode_tiled": "VAE tiling while caching",
    "decode_tiled": "VAE tiling for samples",
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
        f"{profile.base}, {sort} {width} x {height}, {count(profile.trained)} trainable parameters, "
        f"on {device.name}: {label(device.memory)}{left}"
    )


def _memory(planned: Planned, choice: Choice) -> Iterator[str]:
    need = choice.needs["train"]
    yield "Memory while training"
    for cause, size in sorted(need.causes.items(), key=lambda one: -one[1]):
        if size >= 2**20:
            yield f"  {CAUSES[cause]:<28} {label(size):>9}"
    slack = need.reserved - need.total
    if slack >= 2**20:
        yield f"  {'allocator overhead':<28} {label(slack):>9}"
    room = label(budget(planned.device))
    yield f"  {'total':<28} {label(need.reserved):>9} of {room} that may be used"
    peaks = [f"{PHASES[phase]} {label(each.reserved)}" for phase, each in choice.needs.items()]
    yield f"Peaks: {', '.join(peaks)}"
    host = choice.host
    if planned.device.kind != "cpu":
        when = next(phase for phase, each in choice.hosts.items() if each is host)
        pinned = f", {label(host.pinned)} of it pinned" if host.pinned else ""
        yield f"CPU RAM: at most {label(host.total)}{pinned}, while it {DOING[when]}"
    disk = [f"{DISK[what]} {human(size)}" for what, size in planned.disk.items() if size]
    yield f"Disk: {', '.join(disk)}"


def sentences(planned: Planned, choice: Choice) -> Iterator[str]:
    """A plan, one decision a line, in the field's terms."""
    plan, blocks = choice.plan, len(planned.profile.blocks)
    yield _precision(planned, plan)
    if plan.optimizer_state in MOMENTS:
        yield MOMENTS[plan.optimizer_state]
    if plan.checkpointed_blocks:
        kept = ", attention outputs kept" if plan.keep_attention else ""
        yield f"gradient checkpointing: {plan.checkpointed_blocks} of {blocks} blocks{kept}"
    else:
        yield "no gradient checkpointing"
    if plan.swapped_blocks:
        where = "memory-mapped from disk" if plan.mmap_weights else "in CPU RAM"
        yield f"block swap: {min(plan.swapped_blocks, blocks)} of {blocks} blocks {where}"
    elif planned.device.kind == "cuda":
        yield "no block swap"
    if plan.precompute_modulation:
        yield "precomputed modulations: once per step, their weights in CPU RAM"
    images = sum(planned.request.batches)
    if images > 1:
        steps = accumulation_of(plan, planned.request.batches)
        accumulated = f", gradients accumulated over {steps} micro-batches of {plan.micro_batch}"
        yield f"batch size {images}{accumulated if steps > 1 else ''}"
    if plan.compile:
        seconds = compile_seconds(planned.profile, plan)
        yield f"torch.compile of the blocks: about {duration(seconds)} once"
    yield from (words for field, words in ASIDE.items() if getattr(plan, field))


def _precision(planned: Planned, plan: Plan) -> str:
    if planned.request.full:
        return f"full fine-tune: weights fp32, compute {plan.compute}"
    eight = ", 8-bit matmul forward and backward (W8A8)" if plan.matmul_precision == "8bit" else ""
    return f"weights {plan.weights}{eight}, compute {plan.compute}"


def _time(planned: Planned, choice: Choice) -> Iterator[str]:
    step_time, total = choice.step_time, planned.total
    assert total is not None
    parts = {"waiting for copies": step_time.waiting, "recomputing": step_time.repeated}
    spent = [f"{_seconds(each)} {what}" for what, each in parts.items() if each > 0.005 * step_time.seconds]
    aside = f" ({', '.join(spent)})" if spent else ""
    steps = f"{planned.request.steps} steps in {duration(total.train)}"
    yield f"Time: {_seconds(step_time.seconds)} per step{aside}; {steps}"
    others = {
        "loading": total.load,
        "caching": total.cache,
        "samples": total.sample,
        "validation loss": total.measure,
        "saving": total.save,
        "compiling": total.compile,
    }
    beside = ", ".join(f"{what} {duration(each)}" for what, each in others.items() if each >= 1)
    assumed = f" ({planned.counts.images} images assumed)" if planned.counts.assumed else ""
    yield f"Total {duration(total.seconds)}{assumed}{f', with {beside}' if beside else ''}"
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


def count(parameters: int) -> str:
    """A number of parameters for people: ``count(65_372_160) == "65.4M"``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= 0.9995 * size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def duration(seconds: float) -> str:
    """Seconds for people: ``duration(5000) == "1 h 23 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
