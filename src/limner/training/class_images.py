"""Pictures that keep the base as it is: the person's own, or painted by the base before it is trained.

DreamBooth's prior preservation (Ruiz et al. 2022, arXiv:2208.12242, section 3.3).
"""

import json
from pathlib import Path
from typing import Any

import torch

from limner.assembly.resolve import objective_of, source_of
from limner.files import atomic_write, write_json, write_text
from limner.generation import pipeline
from limner.models import family_of
from limner.models.family import Canvas, Family
from limner.models.scheduler import wished
from limner.models.source import Source
from limner.nn import distributed
from limner.nn.rng import seed_of
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir

FACTS = "painted.json"
"""In the folder of the prior: what its pictures were painted from."""


def prior(recipe: Recipe, run: RunDir, reporter: Reporter) -> Path | None:
    """The folder of the recipe's prior; painted into the run folder unless it is there. None: none is wanted.

    Painted once: stopped, it goes on with the picture that is missing; for another base, seed, size or other
    prompts it begins again.
    """
    wish = recipe.prior
    if not wish.prompts:
        return wish.images
    if distributed.rank() == 0:
        source = source_of(recipe.base, reporter.line, recipe.components_from)
        family = family_of(str(source.index.get("_class_name", "")))
        side = recipe.data.resolution or int(source.facts.get("resolution", family.resolution))
        facts = {
            "base": source.fingerprint(family.denoiser, ""),
            "prompts": list(wish.prompts),
            "each": wish.each,
            "seed": recipe.seed,
            "side": side,
            "steps": recipe.sample.steps,
            "guidance": recipe.sample.guidance,
            **wished(objective_of(recipe)),
        }
        _begin(run.prior_path, facts)
        canvas = Canvas(width=side, height=side, steps=recipe.sample.steps, guidance=recipe.sample.guidance)
        _paint(recipe, run.prior_path, source, family, canvas, reporter)
    distributed.barrier()
    return run.prior_path


def _begin(place: Path, facts: dict[str, Any]) -> None:
    """Keep what was painted for the same facts, and nothing else."""
    if _facts(place) != facts:
        for old in place.glob("*.*") if place.exists() else ():
            old.unlink()
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / FACTS, facts)


def _paint(  # noqa: PLR0913  what a picture is made of
    recipe: Recipe, place: Path, source: Source, family: Family, canvas: Canvas, reporter: Reporter
) -> None:
    jobs = [
        (prompt, turn) for prompt in recipe.prior.prompts for turn in range(recipe.prior.images_per_prompt)
    ]
    todo = [n for n in range(len(jobs)) if not (place / f"{n:04d}.png").exists()]
    if not todo:
        return
    pipe = pipeline(family, source, None, wishes=wished(objective_of(recipe)))
    options = family.options(source, canvas)
    with reporter.progress("Painting the prior", len(todo)) as bar:
        for number in todo:
            prompt, turn = jobs[number]
            draw = torch.Generator().manual_seed(seed_of(recipe.seed, "prior", prompt, turn))
            image = pipe(prompt=prompt, **options, generator=draw).images[0]
            write_text(place / f"{number:04d}.txt", prompt + "\n")  # first: a picture that is there has one
            atomic_write(
                place / f"{number:04d}.png", lambda draft, image=image: image.save(draft, format="PNG")
            )
            bar.advance(note=prompt)


def _facts(place: Path) -> Any:
    try:
        return json.loads((place / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
