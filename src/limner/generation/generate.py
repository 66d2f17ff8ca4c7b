"""The verb ``generate``: pictures from the exported file, loaded exactly as other tools will load it."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from limner.assembly.base import family_at, locate_base, shape_at
from limner.assembly.trainable import trainable_of
from limner.errors import BadLora, BadUsage
from limner.files import atomic_write
from limner.generation.branches import as_asked, load_branches, require_branches, with_adapters
from limner.generation.pipeline import LORA, pipeline, refusing
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.file import LoraFile
from limner.models.family import Family, SamplingParams
from limner.models.sampling import overrides_from_metadata
from limner.models.source import Source
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir


def generate(  # noqa: PLR0913  what a picture is made of
    target: Path,
    *,
    base: str | None,
    parts: str = "",
    prompts: list[str],
    out: Path,
    settings: Settings,
    reporter: Reporter,
) -> list[Path]:
    """Paint with what a run trained or a LoRA file holds: the pictures written, prompts outermost.

    Args:
        target: A run folder, or a LoRA file.
        base: The base to load it on; None for the one that the run's recipe or the file names.
        parts: The base that lends a base in one file what it lacks; "" for the one in the run's recipe.
        prompts: At least one.
        out: Folder for the pictures.
        settings: See :class:`Settings`.
        reporter: Where progress is told.
    """
    if not prompts:
        raise BadUsage("There is no prompt. Give at least one with --prompt.")
    if out.is_file():
        raise BadUsage(f"{out} is a file. Name a folder for the pictures with --out.")
    path, base, parts = _trained(target, base, parts)
    if path is None:
        settings.require_no_lora(target)
    source = locate_base(base, reporter.line, parts)
    family = family_at(source)
    for side, pixels in (("--width", settings.width), ("--height", settings.height)):
        family.check_side(side, pixels)
    content = file.read(path) if path else None
    if path and content:
        settings = as_asked(settings, path, content.metadata, reporter)
    require_branches(family, source, settings)
    pipe = pipeline(family, source, path, _sampler_overrides(family, source, path, content, reporter))
    branches = load_branches(pipe, {LORA: settings.lora_scale} if path else {}, settings)
    side = shape_at(source, family).resolution
    params = SamplingParams(
        width=settings.width or side,
        height=settings.height or side,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
    )
    options = family.pipeline_kwargs(source, params)
    paths = []
    with reporter.progress("Painting", len(prompts) * settings.images_per_prompt) as bar:
        for number, prompt in enumerate(prompts):
            for offset in range(settings.images_per_prompt):
                seed = settings.seed + offset
                generator = torch.Generator().manual_seed(seed)
                with refusing(source), with_adapters(pipe, family, *branches):
                    image = pipe(prompt=prompt, **options, generator=generator).images[0]
                image_path = out / f"{number:02d}-{_slug(prompt)}-{seed}.png"
                atomic_write(image_path, partial(image.save, format="PNG"))
                paths.append(image_path)
                bar.advance(note=image_path.name)
    return paths


def _sampler_overrides(
    family: Family, source: Source, lora: Path | None, content: LoraFile | None, reporter: Reporter
) -> dict[str, Any]:
    """Settings of the sampler that the LoRA was trained for and the base does not have; told in a line.

    So is what is odd about the file.
    """
    if lora is None or content is None:
        return {}
    for note in (*content.notes, *content.unread):
        reporter.line(f"{lora.name}: {note}")
    overrides = overrides_from_metadata(family, source, content.metadata)
    if overrides:
        words = ", ".join(f"{key} = {value}" for key, value in overrides.items())
        line = f"The LoRA was trained for another sampler than {source.name} names; painting with {words}."
        reporter.line(line)
    return overrides


def _trained(target: Path, base: str | None, parts: str) -> tuple[Path | None, str, str]:
    """The LoRA, if it is one, and the base that it is for, or that it is."""
    if target.is_dir():
        run = RunDir(target)
        recipe = toml.load(run.recipe_path) if run.recipe_path.exists() else Recipe()
        adapters = trainable_of(recipe).freezes_base
        weights_path = run.lora_path if adapters else run.model_path
        if not weights_path.exists():
            raise BadUsage(f"{target} has no {weights_path.name} yet. Finish it with: limner train {target}")
        if not adapters:
            if base:
                raise BadUsage(
                    f"{target} trained a whole base, {weights_path}; --base cannot be another. Remove it."
                )
            return None, str(weights_path), ""
        return run.lora_path, base or recipe.base, parts or ("" if base else recipe.components_from)
    if not target.exists():
        raise BadUsage(f"{target} does not exist. Give a run folder or a LoRA file.")
    base_name = base or file.read(target).metadata.get("ss_sd_model_name", "")
    if not base_name:
        raise BadLora(f"{target} does not say which base it was trained on. Name it with --base.")
    return target, base_name, parts


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "blank"
