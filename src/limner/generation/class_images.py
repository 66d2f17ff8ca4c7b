"""Pictures that the base generates before it is trained: class images, which keep it, and a teacher's.

DreamBooth's prior preservation (Ruiz et al. 2022, arXiv:2208.12242, section 3.3).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from limner.assembly.base import ResolvedBase
from limner.assembly.resolve import Resolved, resolve_base
from limner.data.captions import NAMES, without_trigger
from limner.data.views import View
from limner.errors import BadData, BadRecipe
from limner.files import atomic_write, write_json, write_text
from limner.imports import imported
from limner.models.family import SamplingParams
from limner.models.sampling import overrides_of
from limner.nn import distributed
from limner.nn.rng import seed_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir

PIPELINE, KEEPER = "limner.generation.pipeline:", "limner.generation.pipeline_keeper:PipelineKeeper"
"""What generates them: most runs read what is here, or have no prior."""
FACTS = ".painted.json"
"""In the folder of the prior: what its pictures were generated from."""


@dataclass(frozen=True)
class GeneratedImages:
    """Pictures that the base generates before it is trained."""

    folder: Path
    prompts: tuple[str, ...]
    counts: tuple[int, ...]
    """Pictures of each prompt."""
    params: SamplingParams
    purpose: str
    """What their seeds are drawn for."""

    def seed_of(self, recipe: Recipe, prompt: str, turn: int) -> int:
        """Of the start noise of a picture."""
        return seed_of(recipe.seed, self.purpose, prompt, turn)


def with_prior(resolved: Resolved, run: RunDir, reporter: Reporter) -> Resolved:
    """The run with further views: class images, captions for the teacher, or the prompts of a slider."""
    if resolved.recipe.train.objective == "slider":
        return _with_poles(resolved)
    if resolved.recipe.prior.taught and resolved.recipe.prior.kind != "experts":
        prior_config, entries = resolved.recipe.prior, resolved.recipe.data.folders

        def text(view: View) -> str:
            if prior_config.kind == "blank":
                return ""
            entry = entries[view.example.dataset]
            return without_trigger(view.caption, entry.trigger, entry.class_word or prior_config.class_word)

        # of what is kept all of a picture counts, whatever its mask
        whole = [replace(view, example=replace(view.example, mask=None)) for view in resolved.own]
        new_views = tuple(dict.fromkeys(replace(view, caption=text(view)) for view in whole))
        return replace(resolved, views=resolved.views + new_views, class_views=len(new_views))
    folder = prior(resolved.base, run, reporter)
    return resolved.with_class_images(folder) if folder else resolved


def _with_poles(resolved: Resolved) -> Resolved:
    """The run with its views once more under the positive, and once more under the negative prompt."""
    slider = resolved.recipe.slider
    poles = tuple(
        replace(view, caption=slider.texts(view.caption)[pole]) for pole in (0, 1) for view in resolved.own
    )
    return replace(resolved, views=resolved.views + poles, poles=len(poles))


def prior(base: ResolvedBase, run: RunDir, reporter: Reporter) -> Path | None:
    """The folder of class images; generated into the run folder unless it is there. None: none are wanted.

    Generated once: stopped, it goes on with the image that is missing; for another base, seed, size or other
    prompts it begins again.
    """
    prior, side, sample = base.recipe.prior, base.resolution, base.recipe.sample
    if not prior.prompts:
        return prior.images
    params = SamplingParams(width=side, height=side, steps=sample.steps, guidance=sample.guidance)
    images = GeneratedImages(run.prior_path, prior.prompts, prior.counts, params, "prior")
    return _generated(base, images, reporter)


def taught(recipe: Recipe, run: RunDir, reporter: Reporter) -> Recipe:
    """The recipe with pictures of the base as its images, generated unless they are there.

    Those of a teacher, or of a slider's neutral prompts. ``metadata.jsonl`` holds the caption of each and the
    seed of its start noise. A static LoRA beside a predictor learns from what the base itself generates, from
    ``prior.prompts``.

    Raises:
        BadRecipe: There are images besides.
    """
    if recipe.train.method == "instant" and recipe.prior.prompts:
        folder = prior(resolve_base(recipe, reporter.line), run, reporter)
        return change(recipe, {"data.images": str(folder), "prior.prompts": [], "prior.count": None})
    slider, distill, objective = recipe.slider, recipe.distill, recipe.train.objective
    if objective == "slider":  # no image is learned, so none is to be held out
        recipe = change(recipe, {"data.validation_count": 0})
    key, prompts = {
        "distill": ("distill.prompts", distill.prompts),
        "slider": ("slider.neutral", slider.neutral),
    }.get(objective, ("", ()))
    if not prompts:
        return recipe
    folder = recipe.data.images
    if folder.exists() and not (folder / FACTS).exists():
        raise BadRecipe(
            f"{key} has {counted(len(prompts), 'prompt')} that the base generates images of, and data.images "
            f"is {folder}: there are images already. Remove {key}, or data.images."
        )
    base = resolve_base(recipe, reporter.line)
    side = base.resolution
    steps, guidance, count = recipe.sample.steps, recipe.sample.guidance, slider.images_per_prompt
    if objective == "distill":
        steps, guidance = distill.teacher_steps, distill.teacher_guidance
        count = distill.images_per_prompt
    params = SamplingParams(width=side, height=side, steps=steps, guidance=guidance)
    purpose = "teacher" if objective == "distill" else "slider"
    images = GeneratedImages(run.teacher_path, prompts, (count,) * len(prompts), params, purpose)
    return change(recipe, {"data.images": str(_generated(base, images, reporter))})


def _generated(base: ResolvedBase, images: GeneratedImages, reporter: Reporter) -> Path:
    params = images.params
    facts = {
        "base": base.source.fingerprint(base.spec.family.denoiser, ""),
        "prompts": list(images.prompts),
        "each": [*images.counts] if len({*images.counts}) > 1 else images.counts[0],
        "seed": base.recipe.seed,
        "side": params.width,
        "steps": params.steps,
        "guidance": params.guidance,
        **overrides_of(base.objective),
    }
    if distributed.rank() == 0:
        _begin(images.folder, facts)
        _generate(base, images, reporter)
    distributed.barrier()
    if _facts(images.folder) != facts:  # on another machine
        raise BadData(
            f"Process {distributed.rank()} does not see {images.folder}, where process 0 has put what the "
            "base generated. Name a run folder with --out that all machines share."
        )
    return images.folder


def _begin(folder: Path, facts: dict[str, Any]) -> None:
    """Keep what was generated for the same facts, and nothing else."""
    if _facts(folder) != facts:
        for old in folder.glob("*.*") if folder.exists() else ():
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FACTS, facts)


def _generate(base: ResolvedBase, images: GeneratedImages, reporter: Reporter) -> None:
    recipe, family, folder = base.recipe, base.spec.family, images.folder
    jobs = [
        (prompt, turn)
        for prompt, count in zip(images.prompts, images.counts, strict=True)
        for turn in range(count)
    ]
    todo = [n for n in range(len(jobs)) if not (folder / f"{n:04d}.png").exists()]
    if not todo:
        return
    rows = [
        {"file_name": f"{n:04d}.png", "text": prompt, "seed": images.seed_of(recipe, prompt, turn)}
        for n, (prompt, turn) in enumerate(jobs)
    ]
    # first: a picture that is there has its caption
    write_text(folder / NAMES[0], "".join(f"{json.dumps(row)}\n" for row in rows))
    keeper = imported(KEEPER)(reporter.line)
    batch_size, batch_kwargs = (imported(f"{PIPELINE}{name}") for name in ("batch_size", "batch_kwargs"))
    pipe = keeper.open(base, overrides=overrides_of(base.objective), params=images.params)
    options = family.pipeline_kwargs(base.source, images.params)
    with reporter.progress(f"Generating pictures of the {images.purpose}", len(todo)) as bar:
        for numbers in _batches(len(jobs), batch_size(images.params, family), todo):
            seeds = [images.seed_of(recipe, *jobs[number]) for number in numbers]
            kwargs = batch_kwargs([jobs[number][0] for number in numbers], options)

            def compute(kwargs: Mapping[str, Any] = kwargs, seeds: Sequence[int] = seeds) -> Any:
                return pipe(
                    **kwargs, generator=[torch.Generator().manual_seed(seed) for seed in seeds]
                ).images

            for number, image in zip(numbers, keeper.computed(compute), strict=True):
                if number in todo:
                    atomic_write(
                        folder / f"{number:04d}.png",
                        lambda draft, image=image: image.save(draft, format="PNG"),
                    )
                    bar.advance(note=jobs[number][0])
    keeper.release()


def _batches(count: int, size: int, todo: Collection[int]) -> Iterator[range]:
    """Numbers of pictures that are computed at once, where one of them is missing.

    Always with the same neighbours, so that what was stopped ends in the same pictures to the last bit.
    """
    batches = (range(start, min(start + size, count)) for start in range(0, count, size))
    return (numbers for numbers in batches if not set(numbers).isdisjoint(todo))


def _facts(folder: Path) -> Any:
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
