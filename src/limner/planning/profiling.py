"""What a run needs, found out from configs alone: a few short rehearsals, then arithmetic.

A denoiser of 57 blocks of two kinds is rehearsed with three blocks of each: the first, the last, and one that
stands for all between (``planning.representative``). A convolutional denoiser, no two blocks of which are
alike, is rehearsed whole.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from limner.assembly.assemble import ModelSpec
from limner.imports import imported
from limner.nn.memory.offload import AUTOCAST_LAYERS
from limner.nn.memory.plan import Weights
from limner.planning.dry_run import DryRun, DryRunResult, TraceSpec
from limner.planning.memory import MASTER
from limner.planning.meta_inputs import boundary
from limner.planning.profile import Affine, Block, OpCounts, Profile
from limner.planning.representative import choose_representatives
from limner.planning.trace import HEAD, Machine, Trace
from limner.planning.tracker import Segment

BATCHES = (1, 2, 3)
"""Images of the rehearsals: a line goes through the last two. Where blocks do not repeat, and nothing but
images is large, one image stands for any number; where every weight is trained, what is made of the weights
is large, too, and the line goes through two."""


TRACED_CODES: Weights = "int8"
"""How weights are stored in rehearsals of 8 bits: fp8 is turned back alike, and its products give 2 bytes a
number where those of int8 give 4, so what it takes is less."""

DryRuns = Mapping[bool, Sequence[DryRunResult]]
"""Whether every block is checkpointed -> one for each number of images."""


def profile(
    spec: ModelSpec,
    trace_spec: TraceSpec,
    *,
    whole: bool = False,
    machine: Machine | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Profile:
    """Trace a training step and write down what it needs.

    Args:
        spec: The base, and what of it is trained; nothing but its configs is opened.
        trace_spec: The size of the images, and what else is not the models'.
        whole: Trace every block even where they repeat.
        machine: What is imitated, if not the device of the spec.
        inputs: What live units read of one image, where it is known already.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target or a text encoder is unknown.
    """
    inputs = inputs or boundary(spec, trace_spec.size)
    representatives = choose_representatives(spec, whole=whole)
    shallow_spec = replace(spec, source=representatives.source)
    # 8-bit products work on codes only, so they are traced on coded weights. In all other cases the weights
    # are traced in full, and coded ones once more at the end, for what turning them back adds.
    dry_run = DryRun(shallow_spec, trace_spec, machine)
    w8a8 = trace_spec.matmul_precision == "8bit"
    traced_run = DryRun(shallow_spec, replace(trace_spec, weights=TRACED_CODES), machine) if w8a8 else dry_run
    results = {
        checkpoints: [
            traced_run.trace(inputs, images, checkpointed_blocks=len(traced_run.blocks) if checkpoints else 0)
            for images in _batches(spec)
        ]
        for checkpoints in (False, True)
    }
    result = _assembled(dry_run, results, representatives.parts, spec.source.name)
    if w8a8:
        return replace(result, decoding=0)  # seen at work, for every number of images
    if representatives.parts is None or not spec.trainable.freezes_base:
        return result
    quantized_run = DryRun(shallow_spec, replace(trace_spec, weights=TRACED_CODES), machine)
    return replace(
        result, decoding=_decoding(quantized_run, inputs, {key: results[key][0] for key in results})
    )


def _batches(spec: ModelSpec) -> tuple[int, ...]:
    if spec.trainable.separate:
        return BATCHES[:2]  # beside images, there are the factors that are made of weights
    if spec.family.arch.depths:
        return BATCHES
    return BATCHES[:1] if spec.trainable.freezes_base else BATCHES[:2]


def _assembled(dry_run: DryRun, results: DryRuns, parts: Sequence[int] | None, base: str) -> Profile:
    """The profile of a base as deep as it is, from a rehearsal that may be shallower."""
    # Each block of the true base takes the figures of the traced block that stands for it.
    block_profiles = _blocks(dry_run, results)
    names = list(dry_run.blocks)
    representative_names = names if parts is None else [names[number] for number in parts]
    blocks = [block_profiles[name] for name in representative_names]
    rest = _rest(dry_run, results)
    # Sums over the true base: what the traced model has outside its blocks, and for every true block once
    # more the figures of the block that stands for it.
    factors = {name: _factors([block], dry_run.idle) for name, block in dry_run.blocks.items()}
    models = [*dry_run.models.values()]
    rest_factors = _factors(models, dry_run.idle)
    for entry in factors.values():
        rest_factors = [outer - inner for outer, inner in zip(rest_factors, entry, strict=True)]
    totals = [
        sum(entry)
        for entry in zip(rest_factors, *(factors[name] for name in representative_names), strict=True)
    ]
    plain = [entry.trace for entry in results[False]]
    trains_base = not dry_run.spec.trainable.freezes_base
    return Profile(
        base=base,
        family=dry_run.family.name,
        size=dry_run.trace_spec.size,
        blocks=tuple(blocks),
        rest=rest,
        trained=totals[0],
        tensors=totals[1],
        factored=totals[2],
        largest=max((entry.numel() for entry in _learning(models, dry_run.idle)), default=0),
        whole=totals[3] if trains_base else 0,
        exact=totals[5] if trains_base else 0,
        idle=totals[4],
        constants=dry_run.constants,
        heads=_predictor(dry_run).get("heads", 0),
        factors=_predictor(dry_run).get("factors", 0),
        on_host=dry_run.trace_spec.on_host,
        head=_behind(plain[0]) if trains_base else 0,
        forward=_line([_fullest(entry) - entry.saved for entry in plain]),
        backward=_most([block.backward_room for block in blocks]),
        recompute=_most([block.recompute_room for block in blocks]),
    )


def _predictor(dry_run: DryRun) -> dict[str, int]:
    """What of a predictor may be divided between processes, and what those then exchange."""
    if not dry_run.spec.trainable.separate:
        return {}
    (name,) = dry_run.spec.first_layers
    return imported("limner.hyper.shards:sizes_of")(dry_run.models[name])


def _fullest(trace: Trace) -> int:
    """Most bytes alive in the forward pass, or while what stands behind the last block is differentiated."""
    return max(segment.peak for segment in trace.segments if segment.phase == "forward" or _head(segment))


def _head(segment: Segment) -> bool:
    return segment.phase == "backward" and segment.name == HEAD


def _line(values: Sequence[float]) -> Affine:
    """Through what was measured with two images and three, with one and two, or in proportion to one."""
    if len(values) == 1:
        return Affine(per_image=float(values[0]))
    if len(values) == 2:
        y1, y2 = values
        return Affine(float(2 * y1 - y2), float(y2 - y1))
    # The line goes through two and three images. One image may be off it: slices of a batch of one need no
    # copies.
    y1, y2, y3 = values
    straight = 2 * y2 - y3 == y1
    return Affine(float(3 * y2 - 2 * y3), float(y3 - y2), None if straight else float(y1))


def _most(lines: Sequence[Affine | None]) -> Affine:
    """The largest of some lines at two images."""
    return max((line for line in lines if line), key=lambda line: line.at(2), default=Affine())


def _works(segments: Sequence[Segment]) -> OpCounts:
    """Of a segment, measured with some numbers of images."""
    return OpCounts(
        gemm=_line([segment.gemm for segment in segments]),
        w8a8=_line([segment.w8a8 for segment in segments]),
        coding=_line([segment.coding for segment in segments]),
        attention=_line([segment.attention for segment in segments]),
        traffic=_line([segment.traffic for segment in segments]),
        kernels=segments[0].kernels,
    )


def _blocks(dry_run: DryRun, results: DryRuns) -> dict[str, Block]:
    """Every rehearsed block."""
    # Without checkpoints: what a block keeps, its work in both directions, and the room of its backward pass.
    # With all blocks checkpointed: what its input takes, and the room of the pass that computes it again, by
    # which time it keeps what it would have kept without.
    plain = [entry.trace for entry in results[False]]
    block_bytes, inputs = (
        [_differences(entry.trace) for entry in results[checkpoints]] for checkpoints in (False, True)
    )
    forward, backward = ([entry.of(phase) for entry in plain] for phase in ("forward", "backward"))
    rooms, recompute_rooms = (
        [_rooms(entry.trace, sizes) for entry, sizes in zip(results[checkpoints], block_bytes, strict=True)]
        for checkpoints in (False, True)
    )
    empty = [Segment("", "", 0, 0)] * len(plain)
    return {
        name: Block(
            kind=_kind(block),
            saved=_line([entry[name] for entry in block_bytes]),
            input=_line([entry[name] for entry in inputs]),
            attention_kept=_line([entry[name].attention_kept for entry in forward]),
            forward=_works([entry[name] for entry in forward]),
            backward=_works([entry[name] for entry in backward] if name in backward[0] else empty),
            tail=_tail(dry_run.spec, [entry.tails[name] for entry in results[False]], forward[0][name]),
            backward_room=_line([room[name] for room in rooms]),
            recompute_room=_line([entry[name] for entry in recompute_rooms]),
            **dry_run.weigh([block]),
        )
        for name, block in dry_run.blocks.items()
    }


def _tail(spec: ModelSpec, flops: Sequence[float], forward: Segment) -> OpCounts:
    """The work of the tails of a block, whose forward pass says in what precision they multiply."""
    if not spec.trainable.freezes_base:
        return OpCounts()
    return OpCounts(w8a8=_line(flops)) if forward.w8a8 else OpCounts(gemm=_line(flops))


def _kind(block: nn.Module) -> str:
    """The class and the number of weights: what tells blocks apart that compile to different graphs."""
    return f"{type(block).__name__} {sum(parameter.numel() for parameter in block.parameters()):,}"


def _differences(trace: Trace) -> dict[str, int]:
    """Block -> bytes that it, and what stands between it and the next, keep."""
    forward = trace.of("forward")
    starts = [segment.start for segment in forward.values()]
    if not starts:
        return {}
    ends = [*starts[1:], _after_last(trace)]
    return {name: end - start for name, start, end in zip(forward, starts, ends, strict=True)}


def _before_first(trace: Trace) -> int:
    """Bytes alive when the first block begins; where there is none, when the forward pass ends."""
    return next((segment.start for segment in trace.of("forward").values()), trace.saved)


def _after_last(trace: Trace) -> int:
    """Bytes alive when the last block has ended."""
    forward = [segment for segment in trace.segments if segment.phase == "forward"]
    return forward[-1].start


def _rooms(trace: Trace, block_bytes: Mapping[str, int]) -> dict[str, int]:
    """Block -> most bytes in its backward pass beyond what it and all before it keep, and the gradients."""
    # When a block's backward pass begins, all blocks before it are stored (what was alive when its forward
    # pass began) and the block itself is. Gradients are counted apart: they do not grow with the images.
    forward, backward = trace.of("forward"), trace.of("backward")
    rooms = {
        name: segment.peak - forward[name].start - block_bytes[name] - segment.gradients
        for name, segment in backward.items()
    }
    return {name: rooms.get(name, 0) for name in forward}


def _decoding(quantized_run: DryRun, inputs: Mapping[str, Tensor], plain: Mapping[bool, DryRunResult]) -> int:
    """Most bytes that a block with weights in 8 bits needs beyond the same block without, for one image."""
    block_bytes = _differences(plain[False].trace)
    extra = 0
    for checkpoints, result in plain.items():
        quantized_result = quantized_run.trace(
            inputs, 1, checkpointed_blocks=len(quantized_run.blocks) if checkpoints else 0
        )
        before, after = _rooms(result.trace, block_bytes), _rooms(quantized_result.trace, block_bytes)
        extra = max(extra, *(after[name] - before[name] for name in before))
    return extra


def _rest(dry_run: DryRun, results: DryRuns) -> Block:
    """What stands outside all blocks."""
    traces = [entry.trace for entry in results[False]]
    before = [_before_first(trace) - trace.start_bytes for trace in traces]
    block_bytes = [sum(_differences(trace).values()) for trace in traces]
    sides = {phase: _works([_outside(trace, phase) for trace in traces]) for phase in ("forward", "backward")}
    return Block(
        kind="rest",
        saved=_line(
            [
                entry.saved - entry.start_bytes - blocks
                for entry, blocks in zip(traces, block_bytes, strict=True)
            ]
        ),
        input=_line(before),
        attention_kept=Affine(),
        forward=sides["forward"],
        backward=sides["backward"],
        tail=OpCounts(),
        **dry_run.weigh_outside(),
    )


def _outside(trace: Trace, phase: str) -> Segment:
    """The segments between blocks, as one."""
    segments = [segment for segment in trace.segments if segment.phase == phase and segment.name == HEAD]
    return Segment(
        HEAD,
        phase,
        0,
        0,
        gemm=sum(segment.gemm for segment in segments),
        w8a8=sum(segment.w8a8 for segment in segments),
        coding=sum(segment.coding for segment in segments),
        attention=sum(segment.attention for segment in segments),
        traffic=sum(segment.traffic for segment in segments),
        kernels=sum(segment.kernels for segment in segments),
    )


def _factors(modules: Sequence[nn.Module], idle: Collection[int]) -> list[int]:
    """Numbers trained; tensors that learn, rows and columns of those; bytes; numbers idle, and exact ones."""
    trained, learning = _learning(modules), _learning(modules, idle)
    numbers = sum(parameter.numel() for parameter in trained)
    return [
        numbers,
        len(learning),
        sum(_factored(parameter) for parameter in learning),
        sum(parameter.nbytes for parameter in trained),
        numbers - sum(parameter.numel() for parameter in learning),
        sum(parameter.numel() for parameter in learning) - sum(_multiplied(modules, idle)),
    ]


def _multiplied(modules: Sequence[nn.Module], idle: Collection[int]) -> list[int]:
    """Numbers of each tensor that learns and that autocast multiplies in half precision."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, AUTOCAST_LAYERS)]
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False)]
    return [weight.numel() for weight in weights if weight.requires_grad and id(weight) not in idle]


def _learning(modules: Sequence[nn.Module], idle: Collection[int] = ()) -> list[nn.Parameter]:
    return [
        parameter
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad and id(parameter) not in idle
    ]


def _factored(weight: nn.Parameter) -> int:
    """Numbers of a second moment that is factored over the last two sides."""
    if weight.ndim < 2:
        return weight.numel()
    return weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2]


def _behind(trace: Trace) -> int:
    """Numbers whose gradients are there when the backward pass comes to the last block."""
    first = next(iter(trace.of("backward").values()), None)
    return first.gradients // MASTER if first else 0
