"""Pictures that keep the base as it is: the person's own, or painted by the base before it is trained.

DreamBooth's prior preservation (Ruiz et al. 2022, arXiv:2208.12242, section 3.3).
"""

import json
from pathlib import Path
from typing import Any

import torch

from limner.assembly.base import ResolvedBase
from limner.files import atomic_write, write_json, write_text
from limner.generation.pipeline import pipeline
from limner.models.family import SamplingParams
from limner.models.sampling import overrides_of
from limner.nn import distributed
from limner.nn.rng import seed_of
from limner.reporter import Reporter
from limner.run_folder import RunDir

FACTS = "painted.json"
"""In the folder of the prior: what its pictures were painted from."""


def prior(base: ResolvedBase, run: RunDir, reporter: Reporter) -> Path | None:
    """The folder of class images; generated into the run folder unless it is there. None: none are wanted.

    Generated once: stopped, it goes on with the image that is missing; for another base, seed, size or other
    prompts it begins again.
    """
    recipe = base.recipe
    if not recipe.prior.prompts:
        return recipe.prior.images
    if distributed.rank() == 0:
        family, side = base.spec.family, base.resolution
        facts = {
            "base": base.source.fingerprint(family.denoiser, ""),
            "prompts": list(recipe.prior.prompts),
            "each": recipe.prior.images_per_prompt,
            "seed": recipe.seed,
            "side": side,
            "steps": recipe.sample.steps,
            "guidance": recipe.sample.guidance,
            **overrides_of(base.objective),
        }
        _begin(run.prior_path, facts)
        sampling_params = SamplingParams(
            width=side, height=side, steps=recipe.sample.steps, guidance=recipe.sample.guidance
        )
        _generate(base, run.prior_path, sampling_params, reporter)
    distributed.barrier()
    return run.prior_path


def _begin(folder: Path, facts: dict[str, Any]) -> None:
    """Keep what was painted for the same facts, and nothing else."""
    if _facts(folder) != facts:
        for old in folder.glob("*.*") if folder.exists() else ():
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FACTS, facts)


def _generate(base: ResolvedBase, folder: Path, sampling_params: SamplingParams, reporter: Reporter) -> None:
    recipe, family = base.recipe, base.spec.family
    jobs = [
        (prompt, turn) for prompt in recipe.prior.prompts for turn in range(recipe.prior.images_per_prompt)
    ]
    todo = [n for n in range(len(jobs)) if not (folder / f"{n:04d}.png").exists()]
    if not todo:
        return
    pipe = pipeline(family, base.source, overrides=overrides_of(base.objective))
    options = family.pipeline_kwargs(base.source, sampling_params)
    with reporter.progress("Painting the prior", len(todo)) as bar:
        for number in todo:
            prompt, turn = jobs[number]
            draw = torch.Generator().manual_seed(seed_of(recipe.seed, "prior", prompt, turn))
            image = pipe(prompt=prompt, **options, generator=draw).images[0]
            write_text(folder / f"{number:04d}.txt", prompt + "\n")  # first: a picture that is there has one
            atomic_write(
                folder / f"{number:04d}.png", lambda draft, image=image: image.save(draft, format="PNG")
            )
            bar.advance(note=prompt)


def _facts(folder: Path) -> Any:
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
