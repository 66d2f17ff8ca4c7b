"""A recipe's profile, traced from configs: the training step, and what stands beside it."""

from dataclasses import replace
from math import ceil

from limner.assembly.resolve import objective_of, trained_of
from limner.errors import BadBase, first_line
from limner.graph.split import split
from limner.models import family_of, sampling
from limner.models.bundled import stored_precision
from limner.models.family import Canvas
from limner.models.loading import BROKEN, misfit
from limner.planning.dry_run import DTYPES, Wish, machine_of
from limner.planning.phases import outside
from limner.planning.profile import Affine, OpCounts, Profile, Stage
from limner.planning.profile_cache import Asked
from limner.planning.profiling import profile


def foresee(asked: Asked) -> Profile:
    """Trace a training step, and everything that a run does outside of it.

    Raises:
        BadBase: The base's configs mean nothing, or do not fit each other.
        BadRecipe: A target or a text encoder is unknown, or a picture's side cannot be.
    """
    try:
        return _foreseen(asked)
    except BROKEN as error:  # the shapes of one model are not those that another reads
        family = family_of(str(asked.source.index.get("_class_name", "")))
        why = misfit(family, asked.source) or f"its configs do not fit each other: {first_line(error)}"
        raise BadBase(f"{asked.source.name}: {why}. {asked.source.again}") from error


def _foreseen(asked: Asked) -> Profile:
    recipe, source = asked.recipe, asked.source
    family = family_of(str(source.index.get("_class_name", "")))
    objective, trained = objective_of(recipe), trained_of(recipe, family, source)
    wish = Wish(
        size=asked.size,
        full=recipe.train.method == "full",
        hosted=asked.hosted,
        rank=recipe.lora.rank,
        conv_rank=recipe.lora.conv_rank,
        targets=recipe.lora.targets,
        text_encoders={name: since for name, since in trained.items() if name != family.denoiser},
        dropout=recipe.lora.dropout,
        compute=asked.compute,
        products=asked.products,
        device=asked.kind,
        objective=objective,
    )
    side = recipe.data.resolution or int(source.facts.get("resolution", family.resolution))
    side = max(1, side // family.multiple) * family.multiple
    for name, pixels in (("sample.width", recipe.sample.width), ("sample.height", recipe.sample.height)):
        family.check_side(name, pixels)
    width, height = recipe.sample.width or side, recipe.sample.height or side
    canvas = Canvas(width=width, height=height, steps=recipe.sample.steps, guidance=recipe.sample.guidance)
    cut = split(family.bound(source, objective), trained)
    beside = outside(
        family,
        source,
        cut,
        size=asked.size,
        dtype=DTYPES[asked.compute],
        canvas=canvas,
        machine=machine_of(wish),
    )
    together = sampling.at_once(canvas)
    return replace(
        profile(family, source, wish, whole=asked.whole, one=beside.boundary),
        stages=tuple(_for_one(stage, together) for stage in beside.stages),
        entry=beside.entry,
        download=beside.download,
        cast=stored_precision(source.name, family.denoiser) != asked.compute,
    )


def _for_one(stage: Stage, together: int) -> Stage:
    """A stage with the work of one picture, where so many are painted at once."""
    if stage.phase != "sample":
        return stage
    lines = {name: getattr(stage.work, name) for name in ("gemm", "eight", "attention", "traffic")}
    each = {name: Affine(line.fixed / together, line.each / together) for name, line in lines.items()}
    return replace(stage, work=OpCounts(**each, kernels=ceil(stage.work.kernels / together)))
