"""What a run needs, found out from configs alone: a few short rehearsals, then arithmetic.

A denoiser of 57 blocks of two kinds is rehearsed with three blocks of each: the first, the last, and one that
stands for all between (``planning.representative``). A convolutional denoiser, no two blocks of which are
alike, is rehearsed whole.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from limner.assembly.spec import ModelSpec
from limner.nn.memory.plan import Weights
from limner.planning.dry_run import Rehearsal, Seen, TraceSpec
from limner.planning.memory import MASTER
from limner.planning.meta_inputs import boundary
from limner.planning.profile import Affine, Block, OpCounts, Profile
from limner.planning.representative import cast
from limner.planning.trace import HEAD, Machine, Trace
from limner.planning.tracker import Segment

BATCHES = (1, 2, 3)
"""Images of the rehearsals: a line goes through the last two. Where blocks do not repeat, and nothing but
images is large, one image stands for any number; where every weight is trained, what is made of the weights
is large, too, and the line goes through two."""


CODED: Weights = "int8"
"""How weights are stored in rehearsals of 8 bits: fp8 is turned back alike, and its products give 2 bytes a
number where those of int8 give 4, so what it takes is less."""

Rehearsals = Mapping[bool, Sequence[Seen]]
"""Whether every block is checkpointed -> one for each number of images."""


def profile(
    spec: ModelSpec,
    how: TraceSpec,
    *,
    whole: bool = False,
    machine: Machine | None = None,
    one: Mapping[str, Tensor] | None = None,
) -> Profile:
    """Trace a training step and write down what it needs.

    Args:
        spec: The base, and what of it is trained; nothing but its configs is opened.
        how: The size of the images, and what else is not the models'.
        whole: Trace every block even where they repeat.
        machine: What is imitated, if not the device of the spec.
        one: What live units read of one image, where it is known already.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target or a text encoder is unknown.
    """
    one = one or boundary(spec, how.size)
    who = cast(spec, whole=whole)
    few = replace(spec, source=who.source)
    # 8-bit products work on codes only, so they are traced on coded weights. In all other cases the weights
    # are traced in full, and coded ones once more at the end, for what turning them back adds.
    rehearsal = Rehearsal(few, how, machine)
    eight = how.products == "8bit"
    acting = Rehearsal(few, replace(how, weights=CODED), machine) if eight else rehearsal
    seen = {
        checkpoints: [
            acting.trace(one, images, checkpointed=len(acting.blocks) if checkpoints else 0)
            for images in _batches(spec)
        ]
        for checkpoints in (False, True)
    }
    found = _assembled(rehearsal, seen, who.parts, spec.source.name)
    if eight:
        return replace(found, decoding=0)  # seen at work, for every number of images
    if who.parts is None or not spec.trainable.freezes_base:
        return found
    coded = Rehearsal(few, replace(how, weights=CODED), machine)
    return replace(found, decoding=_decoding(coded, one, {which: seen[which][0] for which in seen}))


def _batches(spec: ModelSpec) -> tuple[int, ...]:
    if spec.family.arch.depths:
        return BATCHES
    return BATCHES[:1] if spec.trainable.freezes_base else BATCHES[:2]


def _assembled(rehearsal: Rehearsal, seen: Rehearsals, parts: Sequence[int] | None, base: str) -> Profile:
    """The profile of a base as deep as it is, from a rehearsal that may be shallower."""
    # Each block of the true base takes the figures of the traced block that stands for it.
    measured = _blocks(rehearsal, seen)
    names = list(rehearsal.blocks)
    chosen = names if parts is None else [names[number] for number in parts]
    blocks = [measured[name] for name in chosen]
    rest = _rest(rehearsal, seen)
    # Sums over the true base: what the traced model has outside its blocks, and for every true block once
    # more the figures of the block that stands for it.
    factors = {name: _factors([block], rehearsal.idle) for name, block in rehearsal.blocks.items()}
    models = [*rehearsal.models.values()]
    outside = _factors(models, rehearsal.idle)
    for each in factors.values():
        outside = [mine - inside for mine, inside in zip(outside, each, strict=True)]
    totals = [sum(each) for each in zip(outside, *(factors[name] for name in chosen), strict=True)]
    plain = [each.trace for each in seen[False]]
    trains_base = not rehearsal.spec.trainable.freezes_base
    return Profile(
        base=base,
        family=rehearsal.family.name,
        size=rehearsal.how.size,
        blocks=tuple(blocks),
        rest=rest,
        trained=totals[0],
        tensors=totals[1],
        factored=totals[2],
        largest=max((each.numel() for each in _learning(models, rehearsal.idle)), default=0),
        whole=totals[3] if trains_base else 0,
        idle=totals[4],
        held=rehearsal.constants,
        hosted=rehearsal.how.hosted,
        head=_behind(plain[0]) if trains_base else 0,
        forward=_line([_fullest(each) - each.kept for each in plain]),
        backward=_most([block.backward_room for block in blocks]),
        recompute=_most([block.recompute_room for block in blocks]),
    )


def _fullest(trace: Trace) -> int:
    """Most bytes alive in the forward pass, or while what stands behind the last block is differentiated."""
    return max(segment.peak for segment in trace.segments if segment.phase == "forward" or _head(segment))


def _head(segment: Segment) -> bool:
    return segment.phase == "backward" and segment.name == HEAD


def _line(values: Sequence[float]) -> Affine:
    """Through what was measured with two images and three, with one and two, or in proportion to one."""
    if len(values) == 1:
        return Affine(each=float(values[0]))
    if len(values) == 2:
        one, two = values
        return Affine(float(2 * one - two), float(two - one))
    # The line goes through two and three images. One image may be off it: slices of a batch of one need no
    # copies.
    one, two, three = values
    straight = 2 * two - three == one
    return Affine(float(3 * two - 2 * three), float(three - two), None if straight else float(one))


def _most(lines: Sequence[Affine | None]) -> Affine:
    """The largest of some lines at two images."""
    return max((line for line in lines if line), key=lambda line: line.at(2), default=Affine())


def _works(segments: Sequence[Segment]) -> OpCounts:
    """Of a segment, measured with some numbers of images."""
    return OpCounts(
        gemm=_line([segment.gemm for segment in segments]),
        eight=_line([segment.eight for segment in segments]),
        attention=_line([segment.attention for segment in segments]),
        traffic=_line([segment.traffic for segment in segments]),
        kernels=segments[0].kernels,
    )


def _blocks(rehearsal: Rehearsal, seen: Rehearsals) -> dict[str, Block]:
    """Every rehearsed block."""
    # Without checkpoints: what a block keeps, its work in both directions, and the room of its backward pass.
    # With all blocks checkpointed: what its input takes, and the room of the pass that computes it again, by
    # which time it keeps what it would have kept without.
    plain = [each.trace for each in seen[False]]
    kept, inputs = ([_differences(each.trace) for each in seen[which]] for which in (False, True))
    forward, backward = ([each.of(phase) for each in plain] for phase in ("forward", "backward"))
    rooms, again = (
        [_rooms(each.trace, mine) for each, mine in zip(seen[which], kept, strict=True)]
        for which in (False, True)
    )
    nothing = [Segment("", "", 0, 0)] * len(plain)
    return {
        name: Block(
            kind=_kind(block),
            kept=_line([each[name] for each in kept]),
            input=_line([each[name] for each in inputs]),
            attention_kept=_line([each[name].attention_kept for each in forward]),
            forward=_works([each[name] for each in forward]),
            backward=_works([each[name] for each in backward] if name in backward[0] else nothing),
            tail=_tail(rehearsal.spec, [each.tails[name] for each in seen[False]], forward[0][name]),
            backward_room=_line([room[name] for room in rooms]),
            recompute_room=_line([each[name] for each in again]),
            **rehearsal.weigh([block]),
        )
        for name, block in rehearsal.blocks.items()
    }


def _tail(spec: ModelSpec, flops: Sequence[float], forward: Segment) -> OpCounts:
    """The work of the tails of a block, whose forward pass says in what precision they multiply."""
    if not spec.trainable.freezes_base:
        return OpCounts()
    return OpCounts(eight=_line(flops)) if forward.eight else OpCounts(gemm=_line(flops))


def _kind(block: nn.Module) -> str:
    """The class and the number of weights: what tells blocks apart that compile to different graphs."""
    return f"{type(block).__name__} {sum(parameter.numel() for parameter in block.parameters()):,}"


def _differences(trace: Trace) -> dict[str, int]:
    """Block -> bytes that it, and what stands between it and the next, keep."""
    forward = trace.of("forward")
    starts = [each.start for each in forward.values()]
    if not starts:
        return {}
    ends = [*starts[1:], _after_last(trace)]
    return {name: end - start for name, start, end in zip(forward, starts, ends, strict=True)}


def _before_first(trace: Trace) -> int:
    """Bytes alive when the first block begins; where there is none, when the forward pass ends."""
    return next((each.start for each in trace.of("forward").values()), trace.kept)


def _after_last(trace: Trace) -> int:
    """Bytes alive when the last block has ended."""
    forward = [segment for segment in trace.segments if segment.phase == "forward"]
    return forward[-1].start


def _rooms(trace: Trace, kept: Mapping[str, int]) -> dict[str, int]:
    """Block -> most bytes in its backward pass beyond what it and all before it keep, and the gradients."""
    # When a block's backward pass begins, all blocks before it are stored (what was alive when its forward
    # pass began) and the block itself is. Gradients are counted apart: they do not grow with the images.
    forward, backward = trace.of("forward"), trace.of("backward")
    rooms = {
        name: each.peak - forward[name].start - kept[name] - each.gradients for name, each in backward.items()
    }
    return {name: rooms.get(name, 0) for name in forward}


def _decoding(coded: Rehearsal, one: Mapping[str, Tensor], plain: Mapping[bool, Seen]) -> int:
    """Most bytes that a block with weights in 8 bits needs beyond the same block without, for one image."""
    kept = _differences(plain[False].trace)
    more = 0
    for which, seen in plain.items():
        again = coded.trace(one, 1, checkpointed=len(coded.blocks) if which else 0)
        before, after = _rooms(seen.trace, kept), _rooms(again.trace, kept)
        more = max(more, *(after[name] - before[name] for name in before))
    return more


def _rest(rehearsal: Rehearsal, seen: Rehearsals) -> Block:
    """What stands outside all blocks."""
    traces = [each.trace for each in seen[False]]
    before = [_before_first(trace) - trace.held for trace in traces]
    inside = [sum(_differences(trace).values()) for trace in traces]
    sides = {phase: _works([_outside(trace, phase) for trace in traces]) for phase in ("forward", "backward")}
    return Block(
        kind="rest",
        kept=_line([each.kept - each.held - blocks for each, blocks in zip(traces, inside, strict=True)]),
        input=_line(before),
        attention_kept=Affine(),
        forward=sides["forward"],
        backward=sides["backward"],
        tail=OpCounts(),
        **rehearsal.weigh_outside(),
    )


def _outside(trace: Trace, phase: str) -> Segment:
    """The segments between blocks, as one."""
    some = [segment for segment in trace.segments if segment.phase == phase and segment.name == HEAD]
    return Segment(
        HEAD,
        phase,
        0,
        0,
        gemm=sum(each.gemm for each in some),
        eight=sum(each.eight for each in some),
        attention=sum(each.attention for each in some),
        traffic=sum(each.traffic for each in some),
        kernels=sum(each.kernels for each in some),
    )


def _factors(modules: Sequence[nn.Module], idle: Collection[int]) -> list[int]:
    """Numbers that are trained; tensors that learn, rows and columns of those; bytes; idle numbers."""
    trained, learning = _learning(modules), _learning(modules, idle)
    numbers = sum(each.numel() for each in trained)
    return [
        numbers,
        len(learning),
        sum(_factored(each) for each in learning),
        sum(each.nbytes for each in trained),
        numbers - sum(each.numel() for each in learning),
    ]


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
