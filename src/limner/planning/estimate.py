"""A recipe's profile, traced from configs: the training step, and what stands beside it."""

from dataclasses import replace
from math import ceil

from limner.errors import BadBase, first_line
from limner.models import sampling
from limner.models.bundled import stored_precision
from limner.models.family import SamplingParams
from limner.models.loading import LOAD_ERRORS, misfit
from limner.planning.dry_run import TraceSpec, machine_of
from limner.planning.phases import outside
from limner.planning.profile import Affine, OpCounts, Profile, Stage
from limner.planning.profiling import profile
from limner.planning.request import Asked


def foresee(asked: Asked) -> Profile:
    """Trace a training step, and everything that a run does outside of it.

    Raises:
        BadBase: The base's configs mean nothing, or do not fit each other.
        BadRecipe: A target or a text encoder is unknown, or a picture's side cannot be.
    """
    spec = asked.base.spec
    try:
        return _foreseen(asked)
    except LOAD_ERRORS as error:  # the shapes of one model are not those that another reads
        why = misfit(spec.family, spec.source) or f"its configs do not fit each other: {first_line(error)}"
        raise BadBase(f"{spec.source.name}: {why}. {spec.source.again}") from error


def _foreseen(asked: Asked) -> Profile:
    spec, sample = asked.base.spec, asked.base.recipe.sample
    how = TraceSpec(size=asked.size, hosted=asked.hosted, products=asked.products)
    multiple = spec.family.multiple
    side = max(1, asked.base.resolution // multiple) * multiple
    width, height = sample.width or side, sample.height or side
    canvas = SamplingParams(width=width, height=height, steps=sample.steps, guidance=sample.guidance)
    beside = outside(spec, asked.size, canvas=canvas, machine=machine_of(spec, how))
    together = sampling.batch_size(canvas)
    return replace(
        profile(spec, how, whole=asked.whole, one=beside.boundary),
        stages=tuple(_for_one(stage, together) for stage in beside.stages),
        entry=beside.entry,
        download=beside.download,
        cast=stored_precision(spec.source.name, spec.family.denoiser) != spec.compute,
    )


def _for_one(stage: Stage, together: int) -> Stage:
    """A stage with the work of one picture, where so many are painted at once."""
    if stage.phase != "sample":
        return stage
    lines = {name: getattr(stage.work, name) for name in ("gemm", "eight", "attention", "traffic")}
    each = {name: Affine(line.fixed / together, line.each / together) for name, line in lines.items()}
    return replace(stage, work=OpCounts(**each, kernels=ceil(stage.work.kernels / together)))
