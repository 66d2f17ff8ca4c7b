"""A recipe's profile, traced from configs: the training step, and what stands beside it."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from limner.assembly.base import sample_settings
from limner.errors import BadBase, first_line
from limner.models import sampling
from limner.models.bundled import stored_precision
from limner.models.facts import is_tokenizer
from limner.models.family import Family, SamplingParams
from limner.models.loading import LOAD_ERRORS, shapes, skeleton
from limner.models.source import Source
from limner.planning.counts import largest_sample
from limner.planning.dry_run import TraceSpec, machine_of
from limner.planning.phases import outside
from limner.planning.profile import Affine, OpCounts, Profile, Stage
from limner.planning.profiling import profile
from limner.planning.request import ProfileRequest
from limner.planning.targets import target_groups


def estimate(request: ProfileRequest) -> Profile:
    """Trace a training step, and everything that a run does outside of it.

    Raises:
        BadBase: The base's configs mean nothing, or do not fit each other.
        BadRecipe: A target or a text encoder is unknown, or a picture's side cannot be.
    """
    spec = request.base.spec
    try:
        return _estimate(request)
    except LOAD_ERRORS as error:  # the shapes of one model are not those that another reads
        reason = misfit(spec.family, spec.source) or f"its configs do not fit each other: {first_line(error)}"
        raise BadBase(f"{spec.source.name}: {reason}. {spec.source.again}") from error


def _estimate(request: ProfileRequest) -> Profile:
    recipe = request.base.recipe
    spec, sample = request.base.spec.one_step, recipe.sample
    trace_spec = TraceSpec(
        size=request.size, on_host=request.on_host, matmul_precision=request.matmul_precision
    )
    multiple = spec.family.multiple
    side = max(1, request.base.resolution // multiple) * multiple
    _, steps, guidance = sample_settings(recipe)
    if guidance is None and sample.base != "own":
        guidance = spec.family.guidance.off_at  # a distilled base samples in one pass
    width, height, guidance = largest_sample(recipe, side, guidance)
    params = SamplingParams(width=width, height=height, steps=steps, guidance=guidance)
    phases = outside(spec, request.size, params=params, machine=machine_of(spec, trace_spec))
    batch_size = sampling.batch_size(params, spec.family)
    return replace(
        _of_steps(
            profile(spec, trace_spec, whole=request.whole, inputs=phases.boundary),
            phases.boundary,
            request.base.objective.distill_steps,
        ),
        targets=target_groups(spec),
        stages=tuple(_for_one(stage, batch_size) for stage in phases.stages),
        entry=phases.entry,
        download=phases.download,
        cast=stored_precision(spec.source.name, spec.family.denoiser) != spec.compute,
    )


def _of_steps(profile: Profile, boundary: Mapping[str, Tensor], steps: int) -> Profile:
    """The profile of a student, of which one step was traced: the others keep the states they began with."""
    if steps < 2:
        return profile
    state = (steps - 1) * boundary["start"].nbytes
    saved = profile.rest.saved
    rest = replace(profile.rest, saved=replace(saved, per_image=saved.per_image + state))
    return replace(profile, rest=rest, passes=steps)


def _for_one(stage: Stage, batch_size: int) -> Stage:
    """A stage with the work of one picture, where so many are generated at once."""
    if stage.phase != "sample":
        return stage
    lines = {name: getattr(stage.work, name) for name in ("gemm", "w8a8", "attention", "traffic")}
    per_sample = {
        name: Affine(line.offset / batch_size, line.per_image / batch_size) for name, line in lines.items()
    }
    return replace(stage, work=OpCounts(**per_sample, kernels=ceil(stage.work.kernels / batch_size)))


def misfit(family: Family, source: Source) -> str:
    """Which part's config describes another model than its weights; "" where no file can tell.

    Reads configs and the headers of files, no tensor.
    """
    for part in family.parts:
        if is_tokenizer(part):
            continue
        try:
            model = skeleton(family, source, part, dtype=torch.float32)
            file_shapes = dict(shapes(source.weights(part)))
        except (BadBase, *LOAD_ERRORS):
            continue
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
        wrong = [name for name, shape in file_shapes.items() if expected.get(name, shape) != shape]
        if wrong:
            name = wrong[0]
            return (
                f"{part}/config.json describes another model than its weights ({len(wrong)} of "
                f"{len(file_shapes)} tensors: {name} is {file_shapes[name]}, and the config makes it "
                f"{expected[name]})"
            )
    return ""
