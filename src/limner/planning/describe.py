"""A plan in words and tables, for people."""

from collections.abc import Iterator

from limner.files import human
from limner.nn.memory.plan import CAUSES, Plan
from limner.planning.advice import DOING, Alternative
from limner.planning.cards import PRICES
from limner.planning.choice import Choice, budget
from limner.planning.devices import Device
from limner.planning.planner import PlanResult
from limner.planning.profile import folded
from limner.planning.shards import exchanged_bytes, passed_bytes
from limner.planning.time import accumulation_of, compile_seconds
from limner.recipe.fields import label

PHASES = {"load": "loading", "cache": "caching", "train": "training", "sample": "sampling"}

DISK = {
    "download": "download",
    "cache": "cache",
    "checkpoints": "checkpoints",
    "loras": "LoRAs",
    "model": "trained model",
    "mapped": "memory-mapped weights",
}
"""What lies on the disk -> what it is called."""

MOMENTS = {
    "8bit": "8-bit AdamW",
    "host": "optimizer offload: fp32 weights, gradients and optimizer states in CPU RAM, a copy in VRAM",
}
"""How the optimizer's state is kept -> what is said of it."""

PLACEMENT = {
    "encode_streamed": "encoder offload while caching: layer by layer",
    "encode_mapped": "encoders memory-mapped from disk meanwhile, as CPU RAM is short",
    "encode_tiled": "VAE tiling while caching",
    "decode_tiled": "VAE tiling for samples",
}
"""Field of a plan -> what is done when it is set."""


def lines(result: PlanResult) -> list[str]:
    """Everything that a person wants to know of a plan, from what matters most on."""
    if result.choice is None:
        return [str(result.misfit), "", _title(result)]
    return [
        headline(result),
        *hints(result.device, assume=result.recipe.limits.device == "auto"),
        "",
        _title(result),
        "",
        *_memory(result, result.choice),
        "",
        "The plan",
        *(["  two phases of pairs, before and after; memory is that of the second"] if result.first else []),
        *(f"  {sentence}" for sentence in sentences(result, result.choice)),
        "",
        *_time(result, result.choice),
        "",
        *_targets(result),
        *_others(result),
        f"Rates: {result.device.source}.",
    ]


def headline(result: PlanResult) -> str:
    """Whether it fits, how long it takes, and what it takes of the computer and of the disk: one line."""
    if result.choice is None or result.total is None:
        return str(result.misfit)
    device = result.device
    parts = [f"about {duration(result.total.seconds)}"]
    if device.kind == "cuda":
        assumption = f" ({device.ram / 2**30:.0f} GB assumed)" if device.ram_assumed else ""
        parts.append(f"{label(result.choice.host.total)} of RAM{assumption}")
    parts.append(f"{human(sum(result.disk.values()))} of disk")
    gate = f"; accept the licence first at {result.gate}" if result.gate else ""
    return f"Fits {device_label(device)}: {', '.join(parts)}{gate}."


def device_label(device: Device) -> str:
    """A device in a sentence: "your 12 GB card", "a 24 GB RTX 4090", "this processor"."""
    if device.kind != "cuda":
        return "this processor" if device.kind == "cpu" else device.name
    number = round(device.memory / 2**30)
    size, article = f"{number} GB", "an" if number in {8, 11, 18, *range(80, 90)} else "a"
    match device.origin:
        case "here":
            return f"your {size} card ({device.name})"
        case "size":
            return f"{article} {size} card"
    return f"{article} {size} {device.name.removesuffix(f' {number}GB')}"


def hints(device: Device, *, assume: bool) -> Iterator[str]:
    """What a person should know of the device: that there is no GPU, or whose rates were taken.

    Args:
        device: That is planned for.
        assume: Whether nobody has asked for the processor.
    """
    if device.kind == "cpu" and assume:
        yield (
            "No GPU was found, so this is for the processor. To plan for a card that is elsewhere: "
            '--card "RTX 4090", or its size: --vram 12GB.'
        )
    if device.origin == "size":
        yield f"Seconds are those of an {device.name}; to plan for another card: --card NAME."


def _title(result: PlanResult) -> str:
    profile, device = result.profile, result.device
    width, height = profile.size
    sort = "at" if result.counts.images_unknown else "largest bucket"
    reserve = f", {label(device.reserve)} left to the desktop and others" if device.reserve else ""
    return (
        f"{profile.base}, {sort} {width} x {height}, {count(profile.trained)} trainable parameters, "
        f"on {device.name}: {label(device.memory)}{reserve}"
    )


def _targets(result: PlanResult) -> Iterator[str]:
    """The layers that get an adapter, those that are alike in one line."""
    groups = folded(result.profile.targets)
    if not groups:
        return
    width = max(len(group.layers) for group in groups)
    components = dict.fromkeys(group.component for group in groups)
    for component in components:
        members = [group for group in groups if group.component == component]
        layers = sum(group.count for group in members)
        kind = result.recipe.lora.kind
        yield f"Trained layers of {component}: {layers}, {kind}"
        for group in members:
            numbers = f"rank {group.rank:<4} {count(group.trained):>6}"
            yield f"  {group.layers:<{width}} {group.count:>4} x {numbers}"
    yield ""


def _memory(result: PlanResult, choice: Choice) -> Iterator[str]:
    need = choice.needs["train"]
    yield "Memory while training"
    for cause, size in sorted(need.causes.items(), key=lambda item: -item[1]):
        if size >= 2**20:
            yield f"  {CAUSES[cause]:<28} {label(size):>9}"
    slack = need.reserved - need.total
    if slack >= 2**20:
        yield f"  {'allocator overhead':<28} {label(slack):>9}"
    room = label(budget(result.device))
    yield f"  {'total':<28} {label(need.reserved):>9} of {room} that may be used"
    peaks = [f"{PHASES[phase]} {label(need.reserved)}" for phase, need in choice.needs.items()]
    yield f"Peaks: {', '.join(peaks)}"
    host = choice.host
    if result.device.kind != "cpu":
        phase = next(phase for phase, need in choice.hosts.items() if need is host)
        pinned = f", {label(host.pinned)} of it pinned" if host.pinned else ""
        yield f"CPU RAM: at most {label(host.total)}{pinned}, while it {DOING[phase]}"
    disk = [f"{DISK[kind]} {human(size)}" for kind, size in result.disk.items() if size]
    yield f"Disk: {', '.join(disk)}"


def sentences(result: PlanResult, choice: Choice) -> Iterator[str]:
    """A plan, one decision a line, in the field's terms."""
    plan, blocks = choice.plan, len(result.profile.blocks)
    yield _precision(result, plan)
    device = result.device
    if plan.compute == "fp32" and device.kind == "cuda" and result.recipe.limits.compute_dtype == "auto":
        fp16 = f", and {result.profile.base} is not known to stay below fp16's 65504"
        yield f"fp32: {device.name} has no bf16{fp16 if device.rates.gemm.get('fp16') else ' or fp16'}"
    yield from _split(result, plan)
    if plan.optimizer_state in MOMENTS:
        yield MOMENTS[plan.optimizer_state]
    if plan.gradients == "bf16":
        yield "gradients in bf16 until the optimizer steps: the same numbers in half the memory"
    if plan.checkpointed_blocks:
        attention = ", attention outputs kept" if plan.keep_attention else ""
        yield f"gradient checkpointing: {plan.checkpointed_blocks} of {blocks} blocks{attention}"
    else:
        yield "no gradient checkpointing"
    if plan.swapped_blocks:
        location = "memory-mapped from disk" if plan.mmap_weights else "in CPU RAM"
        yield f"block swap: {min(plan.swapped_blocks, blocks)} of {blocks} blocks {location}"
    elif result.device.kind == "cuda":
        yield "no block swap"
    if plan.precompute_modulation:
        yield "precomputed modulations: once per step, their weights in CPU RAM"
    yield from _words(result)
    yield from _batch(result, plan)
    if plan.compile:
        seconds = compile_seconds(result.profile, plan)
        yield f"torch.compile of the blocks: about {duration(seconds)} once"
    yield from (words for field, words in PLACEMENT.items() if getattr(plan, field))


def _batch(result: PlanResult, plan: Plan) -> Iterator[str]:
    """The images of a step; those of a slider pass twice, once at each strength."""
    ways = 2 if result.request.is_slider else 1
    images = sum(result.request.batches) // ways
    steps = accumulation_of(plan, result.request.batches) // ways
    accumulation = f", gradients accumulated over {steps} micro-batches of {plan.micro_batch}"
    strengths = ", at strengths 1 and -1" if ways > 1 else ""
    if images > 1 or strengths:
        yield f"batch size {images}{strengths}{accumulation if steps > 1 else ''}"


def _words(result: PlanResult) -> Iterator[str]:
    """What it costs that token vectors are trained, if any are: by the traced work of their encoders."""
    if result.recipe.train.method != "inversion":
        return
    profile = result.profile
    stages = [stage for stage in profile.stages if stage.resident]
    parts = [*profile.blocks, profile.rest]
    whole = sum(part.forward.gemm.at(1) + part.backward.gemm.at(1) for part in parts)
    share = 2 * sum(stage.work.gemm.at(1) for stage in stages) / whole if whole else 0.0  # frozen: no third
    names = " and ".join(stage.name.partition(" ")[0] for stage in stages)
    size = label(sum(stage.weights for stage in stages))
    yield (
        f"textual inversion: {names} ({size}) stay in memory and run forward and back for captions with the "
        f"word, {share:.0%} of a step's arithmetic; other captions stay cached"
    )


def _split(result: PlanResult, plan: Plan) -> Iterator[str]:
    """What is split over processes, and what that sends between them."""
    device, micro_batches = result.device, accumulation_of(plan, result.request.batches)
    if plan.shards > 1:
        size = passed_bytes(result.profile, plan) * micro_batches
        text = f"weights split over {plan.shards} processes (FSDP2): {human(round(size))} come"
    elif plan.head_shards > 1:
        size = exchanged_bytes(result.profile, plan) * micro_batches
        text = (
            f"heads divided between {plan.head_shards} processes, layer by layer: {human(round(size))} of "
            "factors and gradients come"
        )
    else:
        return
    rate = device.rates.link
    yield f"{text} to each in a step, in {_seconds(size / rate)} at {rate / 1e9:.3g} GB/s"


def _precision(result: PlanResult, plan: Plan) -> str:
    matmul = ", 8-bit matmul forward and backward (W8A8)" if plan.matmul_precision == "8bit" else ""
    matmul += ", modulations too" if plan.code_modulations else ""
    return f"{result.request.trained.precision(plan)}{matmul}, compute {plan.compute}"


def _time(result: PlanResult, choice: Choice) -> Iterator[str]:
    step_time, total = choice.step_time, result.total
    assert total is not None
    parts = {
        "waiting for shards" if choice.plan.shards > 1 else "waiting for copies": step_time.waiting,
        "recomputing": step_time.repeated,
    }
    shares = [
        f"{_seconds(seconds)} {name}"
        for name, seconds in parts.items()
        if seconds > 0.005 * step_time.seconds
    ]
    share_text = f" ({', '.join(shares)})" if shares else ""
    steps = f"{result.request.steps} steps in {duration(total.train)}"
    mean_text = ", the mean over several sizes" if result.mixture.parts else ""
    yield f"Time: {_seconds(step_time.seconds)} per step{mean_text}{share_text}; {steps}"
    phases = {
        "loading": total.load,
        "caching": total.cache,
        "samples": total.sample,
        "validation loss": total.measure,
        "saving": total.save,
        "compiling": total.compile,
    }
    phase_text = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items() if seconds >= 1)
    assumption = f" ({result.counts.images} images assumed)" if result.counts.images_unknown else ""
    yield f"Total {duration(total.seconds)}{assumption}{f', with {phase_text}' if phase_text else ''}"
    if result.cost is not None:
        source = "" if result.price != result.device.price else f": {PRICES}"
        count = result.device.processes
        share = f" for each of {count} GPUs" if count > 1 else ""
        yield f"Rented: ${result.cost:.2f} at ${result.price:.2f} an hour{share}{source}"


def _others(result: PlanResult) -> Iterator[str]:
    if not result.alternatives:
        return
    yield "Instead"
    for alternative in result.alternatives:
        yield f"  {alternative.label}: {_cost(alternative)}"
    yield ""


def _cost(alternative: Alternative) -> str:
    seconds = alternative.choice.step_time.seconds
    if abs(alternative.change) < 0.005:
        speed = "as fast"
    else:
        speed = f"{abs(alternative.change):.0%} {'slower' if alternative.change > 0 else 'faster'}"
    speed += " per image" if alternative.batch else ""
    return f"{speed} ({_seconds(seconds)} per step), {label(alternative.choice.reserved)}"


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
