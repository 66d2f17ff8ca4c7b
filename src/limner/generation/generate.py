"""The verb ``generate``: pictures from exported files, loaded exactly as other tools will load them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from limner.assembly.base import few_steps, sample_base_of, shape_at
from limner.assembly.resolve import resolve_base
from limner.assembly.trainable import trainable_of
from limner.data.views import buckets, closest
from limner.errors import BadLora, BadUsage
from limner.generation.branches import (
    NEGATIVE_LORA,
    as_asked,
    negative_scales,
    require_branches,
    with_adapters,
)
from limner.generation.controls import prompt_kwargs, require_controls, shown_images
from limner.generation.grid import Cell, write_grid
from limner.generation.image_files import ImageRecord, UsedLora, write_image
from limner.generation.pipeline import pipeline, refusing
from limner.generation.settings import GenerationRequest, Settings
from limner.lora import file
from limner.lora.file import LoraFile
from limner.lora.metadata import without_path
from limner.models.family import Family, SamplingParams
from limner.models.sampling import overrides_from_metadata
from limner.models.source import Source
from limner.recipe import toml
from limner.recipe.prompt_file import PromptLine
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir, run_of

BATCH_PIXELS = 512 * 512
"""Of pictures that are computed at once: a batch takes no more memory than one picture of most bases."""


@dataclass(frozen=True)
class Trained:
    """What a run or a file brings."""

    lora: Path | None
    """None where a whole base was trained."""
    base: str
    """The base that it is for, or that it is."""
    components_from: str


def generate(request: GenerationRequest, reporter: Reporter) -> list[Path]:
    """Sample with what a run trained or a LoRA file holds.

    Returns:
        The pictures, prompts outermost, then steps, strengths and seeds; at last the grids, one for each
        prompt, where several steps, strengths or seeds are compared.

    Raises:
        BadUsage: There is nothing to sample with, or an option means nothing here.
        LimnerError: The LoRA or the base cannot be used.
    """
    sampler = ImageSampler(request, reporter)
    paths: list[Path] = []
    grids: list[Path] = []
    with reporter.progress("Generating", sum(len(sampler.cells(line)) for line in request.prompts)) as bar:
        for line in request.prompts:
            cells: dict[Cell, Path] = {}
            for cell, image, record in sampler.images(line):
                cells[cell] = write_image(request.out, image, record)
                bar.advance(note=cells[cell].name)
            paths += cells.values()
            if request.is_grid:
                grids.append(write_grid(request.out, line.prompt, cells))
    return [*paths, *grids]


class ImageSampler:
    """A base with the LoRAs of a request in it.

    Args:
        request: What to sample with; without a target the base alone.
        reporter: Is told what is odd about the files.
        open_pipeline: Makes the pipeline, as :func:`pipeline` does.
        on_step: Called after each step of the sampler with how many are done.

    Raises:
        LimnerError: See :func:`generate`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        reporter: Reporter,
        open_pipeline: Callable[..., Any] = pipeline,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """See the class."""
        self.settings, self._on_step = request.settings, on_step
        trained = [_trained(target, request.base, request.components_from) for target in request.targets]
        if not trained:
            trained = [Trained(None, request.base or "", request.components_from)]
        elif trained[0].lora is None:
            self.settings.require_no_lora(request.targets[0])
        base, components_from = trained[0].base, trained[0].components_from
        if request.sample_base:
            base, components_from = sample_base_of(base, request.sample_base, "--on"), ""
            self.settings = replace(self.settings, steps=few_steps(base, self.settings.steps)[0])
        resolved = resolve_base(Recipe(base=base, components_from=components_from), reporter.line)
        self.source, self.family = resolved.source, resolved.family
        self._targets = [item.lora for item in trained]
        self._further_loras = {_lora_of(path): strength for path, strength in request.loras.items()}
        paths = dict.fromkeys(path for path in (*self._targets, *self._further_loras) if path)
        contents = {path: file.read(path) for path in paths}
        for path, content in contents.items() if request.sample_base else ():
            if content.family not in (None, self.family.name):
                raise BadUsage(
                    f"--on is {request.sample_base}, of the family {self.family.name}, and {path.name} is of "
                    f"{content.family}. Name a base of that family."
                )
        if path := self._targets[0]:
            self.settings = as_asked(self.settings, path, contents[path].metadata, reporter)
        for line in request.prompts:
            _require_possible(self.family, self.source, _overlaid(self.settings, line))
        self._used = {path: _used(path, content.metadata) for path, content in contents.items()}
        self._names = {path: f"lora-{number}" for number, path in enumerate(paths)}
        overrides = _sampler_overrides(self.family, self.source, contents, reporter)
        loras = {name: path for path, name in self._names.items()}
        if path := self.settings.negative_lora:
            loras[NEGATIVE_LORA] = path
        self.pipe = open_pipeline(self.family, self.source, loras, overrides)

    def cells(self, line: PromptLine) -> list[Cell]:
        """What its pictures differ in, steps outermost, seeds innermost."""
        return [cell for _, cell in self._jobs(_overlaid(self.settings, line))]

    def _jobs(self, settings: Settings) -> list[tuple[Path | None, Cell]]:
        return [
            (target, Cell(self._used[target].trained_steps if target else None, strength, seed))
            for target, strength, seed in product(self._targets, settings.strengths, settings.seeds)
        ]

    def images(self, line: PromptLine) -> Iterator[tuple[Cell, Image.Image, ImageRecord]]:
        """A picture for each of the cells."""
        for target, cell in self._jobs(_overlaid(self.settings, line)):
            ((image, record),) = self.batch(line, [(line.prompt, cell.seed)], target, cell.strength)
            yield cell, image, record

    def batch_size(self, line: PromptLine) -> int:
        """How many pictures like those of a line may be computed at once: of large ones, one."""
        params = _params(self.family, self.source, _overlaid(self.settings, line))
        return 1 if params.controls else max(1, BATCH_PIXELS // (params.width * params.height))

    def batch(
        self, line: PromptLine, jobs: Sequence[tuple[str, int]], target: Path | None, strength: float
    ) -> list[tuple[Image.Image, ImageRecord]]:
        """Pictures of several prompts and seeds, computed at once.

        Args:
            line: How they are sampled; what it shows is in ``jobs``.
            jobs: (prompt, seed) of each, at most :meth:`batch_size`.
            target: The LoRA among the targets; None for a base that was trained whole.
            strength: Of the LoRA.

        Raises:
            BadBase: The base cannot compute.
        """
        settings = _overlaid(self.settings, line)
        params = _params(self.family, self.source, settings)
        options = self.family.pipeline_kwargs(self.source, params)
        control_kwargs = self.family.control_kwargs(params)
        if settings.negative_prompt:
            options["negative_prompt"] = settings.negative_prompt
        strengths = ({target: strength} if target else {}) | self._further_loras
        positive = {self._names[path]: scale for path, scale in strengths.items()}
        negative = negative_scales(settings, positive, strength)
        kwargs = self._prompt_kwargs([prompt for prompt, _ in jobs], options, settings)
        if self._on_step is not None:
            kwargs["callback_on_step_end"] = self._stepped
        generators = [torch.Generator().manual_seed(seed) for _, seed in jobs]
        with refusing(self.source), with_adapters(self.pipe, self.family, positive, negative):
            images = self.pipe(**kwargs, **control_kwargs, generator=generators).images
        used = [replace(self._used[path], strength=scale) for path, scale in strengths.items()]
        return [
            (image, self._record(prompt, seed, image, options, used))
            for (prompt, seed), image in zip(jobs, images, strict=True)
        ]

    def _prompt_kwargs(
        self, prompts: Sequence[str], options: Mapping[str, Any], settings: Settings
    ) -> dict[str, Any]:
        """Arguments of the stock pipeline for one prompt, or for several without control images."""
        if len(prompts) == 1:
            with refusing(self.source):
                return prompt_kwargs(
                    self.family, self.source, self.pipe, prompts[0], options, settings.controls
                )
        negative = options.get("negative_prompt")
        texts = {"negative_prompt": [negative] * len(prompts)} if isinstance(negative, str) else {}
        return {"prompt": list(prompts), **options, **texts}

    def _stepped(self, pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What diffusers calls after each step."""
        if self._on_step is not None:
            self._on_step(step + 1)
        return tensors

    def _record(
        self,
        prompt: str,
        seed: int,
        image: Image.Image,
        options: Mapping[str, Any],
        used: Sequence[UsedLora],
    ) -> ImageRecord:
        scale = options.get("guidance_scale")
        reads_scale = "true_cfg_scale" in options and options.get("negative_prompt") is None
        negative_lora = self.settings.negative_lora
        return ImageRecord(
            prompt=prompt,
            negative_prompt=options.get("negative_prompt") or "",
            seed=seed,
            steps=options["num_inference_steps"],
            guidance=options.get("true_cfg_scale", scale),
            distilled_guidance=scale if reads_scale else None,
            width=image.width,
            height=image.height,
            base=without_path(self.source.name),
            sampler=type(self.pipe.scheduler).__name__,
            loras=tuple(used),
            lora_on="positive" if self.settings.splits_branches else "both",
            negative_lora=negative_lora.stem if negative_lora else None,
        )


def _overlaid(settings: Settings, line: PromptLine) -> Settings:
    """The settings with what the line of a prompt file says in place of them."""
    values = {name: value for name, value in vars(line).items() if name != "prompt" and value is not None}
    return replace(settings, **values)


def _require_possible(family: Family, source: Source, settings: Settings) -> None:
    """Raise ``BadUsage`` or ``BadRecipe`` where the base cannot sample so."""
    for side, pixels in (("--width", settings.width), ("--height", settings.height)):
        family.check_side(side, pixels)
    require_controls(family, settings)
    require_branches(family, source, settings)
    if not settings.negative_prompt:
        return
    family.require_negative_pass(source, settings.guidance, "--negative-prompt")
    params = SamplingParams(width=family.multiple, height=family.multiple, steps=1)
    if "negative_prompt" not in family.pipeline_kwargs(source, params):
        raise BadUsage(f"--negative-prompt: {family.pipeline} of diffusers reads none. Remove it.")


def _params(family: Family, source: Source, settings: Settings) -> SamplingParams:
    """How the pictures of a prompt are sampled; beside control images in the shape of the first."""
    shape = shape_at(source, family)
    control_images = shown_images(family, shape.resolution, settings.controls)
    width, height = shape.resolution, shape.resolution
    if control_images:
        width, height = closest(*control_images[0].size, buckets(width, multiple=shape.multiple))
    return SamplingParams(
        width=settings.width or width,
        height=settings.height or height,
        steps=settings.steps,
        guidance=settings.guidance,
        controls=control_images,
    )


def _used(path: Path, metadata: Mapping[str, str]) -> UsedLora:
    """How the metadata of images name a LoRA."""
    name, steps = metadata.get("ss_output_name", ""), metadata.get("ss_steps", "")
    return UsedLora(
        name=name or path.stem,
        sha256=file.bytes_hash(path).removeprefix("0x"),
        strength=1.0,
        trained_steps=int(steps) if steps.isascii() and steps.isdigit() else None,
    )


def _sampler_overrides(
    family: Family, source: Source, contents: Mapping[Path, LoraFile], reporter: Reporter
) -> dict[str, Any]:
    """Settings of the sampler that the LoRAs were trained for and the base does not have; told in a line.

    So is what is odd about the files. Of LoRAs that were trained for different samplers the first decides.
    """
    overrides_by_path: dict[Path, dict[str, Any]] = {}
    for path, content in contents.items():
        for note in (*content.notes, *content.unread):
            reporter.line(f"{path.name}: {note}")
        overrides_by_path[path] = overrides_from_metadata(family, source, content.metadata)
    overrides = next(iter(overrides_by_path.values()), {})
    if overrides:
        words = ", ".join(f"{key} = {value}" for key, value in overrides.items())
        line = f"The LoRA was trained for another sampler than {source.name} names; sampling with {words}."
        reporter.line(line)
    for path in (path for path, item in overrides_by_path.items() if item != overrides):
        reporter.line(
            f"{path.name} was trained for another sampler than {next(iter(overrides_by_path)).name}."
        )
    return overrides


def _trained(target: Path, base: str | None, parts: str) -> Trained:
    """The LoRA, if it is one, and the base that it is for, or that it is."""
    if target.is_dir():
        run, recipe = RunDir(target), _recipe_of(target)
        if trainable_of(recipe).freezes_base:
            lora = _lora_of(target)
            return Trained(lora, base or recipe.base, parts or ("" if base else recipe.components_from))
        _require_finished(run, run.model_path)
        if base:
            raise BadUsage(
                f"{target} trained a whole base, {run.model_path}; --base cannot be another. Remove it."
            )
        return Trained(None, str(run.model_path), "")
    lora = _lora_of(target)
    if (run := run_of(target)) and not base:  # its recipe says where the base is, the file only its name
        recipe = toml.load(run.recipe_path)
        return Trained(lora, recipe.base, parts or recipe.components_from)
    base_name = base or file.read(lora).metadata.get("ss_sd_model_name", "")
    if not base_name:
        raise BadLora(f"{target} does not say which base it was trained on. Name it with --base.")
    return Trained(lora, base_name, parts)


def _lora_of(target: Path) -> Path:
    """The LoRA file of a run, or the file itself."""
    if target.is_dir():
        run = RunDir(target)
        if not trainable_of(_recipe_of(target)).freezes_base:
            raise BadUsage(
                f"{target} trained a whole base and holds no LoRA. Name a run or a file of a LoRA."
            )
        if run.predictor_path.exists() and not run.lora_path.exists():
            raise BadUsage(
                f"{target} trained a predictor, which makes a LoRA of images: limner instant IMAGES "
                f"--predictor {run.predictor_path}"
            )
        _require_finished(run, run.lora_path)
        return run.lora_path
    if not target.exists():
        raise BadUsage(f"{target} does not exist. Give a run folder or a LoRA file.")
    return target


def _recipe_of(folder: Path) -> Recipe:
    run = RunDir(folder)
    return toml.load(run.recipe_path) if run.recipe_path.exists() else Recipe()


def _require_finished(run: RunDir, path: Path) -> None:
    if not path.exists():
        raise BadUsage(f"{run.path} has no {path.name} yet. Finish it with: limner train {run.path}")
