"""The verb ``generate``: pictures from exported files, loaded exactly as other tools will load them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from limner.assembly.base import few_steps, sample_base_of, shape_at
from limner.assembly.resolve import resolve_base
from limner.data.views import buckets, closest
from limner.errors import BadUsage
from limner.generation.branches import (
    NEGATIVE_LORA,
    as_asked,
    negative_scales,
    require_branches,
    with_adapters,
)
from limner.generation.controls import prompt_kwargs, require_controls, shown_images
from limner.generation.grid import Cell, write_grid
from limner.generation.image_files import ImageRecord, UsedLora, UsedWord, write_image
from limner.generation.pipeline import batch_kwargs, batch_size, refusing
from limner.generation.pipeline_keeper import PipelineKeeper
from limner.generation.settings import GenerationRequest, Settings
from limner.generation.trained import Trained, lora_of, trained_of
from limner.generation.words import embedding_file, require_words, with_words, words_of
from limner.lora import file
from limner.lora.embeddings import Embedding
from limner.lora.file import LoraFile
from limner.lora.metadata import without_path
from limner.models.family import Family, SamplingParams, guidance_of
from limner.models.sampling import overrides_from_metadata
from limner.models.source import Source
from limner.recipe.prompt_file import PromptLine
from limner.recipe.schema import Recipe
from limner.reporter import Reporter


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
        keeper: Has the pipeline, maybe from the request before.
        on_step: Called after each step of the sampler with how many are done.

    Raises:
        LimnerError: See :func:`generate`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        reporter: Reporter,
        keeper: PipelineKeeper | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """See the class."""
        self.settings, self._on_step = request.settings, on_step
        trained = [trained_of(target, request.base, request.components_from) for target in request.targets]
        if not trained:
            trained = [Trained(None, request.base or "", request.components_from)]
        elif trained[0].lora is None:
            self.settings.require_no_lora(request.targets[0])
        base, components_from = trained[0].base, trained[0].components_from
        if request.sample_base:
            base, components_from = sample_base_of(base, request.sample_base, "--on"), request.components_from
            self.settings = replace(self.settings, steps=few_steps(base, self.settings.steps)[0])
        resolved = resolve_base(Recipe(base=base, components_from=components_from), reporter.line)
        self.source, self.family = resolved.source, resolved.family
        self._targets = [item.main for item in trained]
        self._further_loras = {lora_of(path): strength for path, strength in request.loras.items()}
        loras = [item.lora for item in trained if item.lora]
        paths = dict.fromkeys([*loras, *self._further_loras])
        self._read_words(trained, request)
        contents = {path: file.read(path) for path in paths}
        for path, content in contents.items() if request.sample_base else ():
            if content.family not in (None, self.family.name):
                raise BadUsage(
                    f"--on is {request.sample_base}, of the family {self.family.name}, and {path.name} is of "
                    f"{content.family}. Name a base of that family."
                )
        if path := trained[0].lora:
            self.settings = as_asked(self.settings, path, contents[path].metadata, reporter)
        for line in request.prompts:
            _require_possible(self.family, self.source, _overlaid(self.settings, line))
        self._used = {path: _used(path, content.metadata) for path, content in contents.items()}
        self._names = {path: f"lora-{number}" for number, path in enumerate(paths)}
        overrides = _sampler_overrides(self.family, self.source, contents, reporter)
        files = {name: path for path, name in self._names.items()}
        if path := self.settings.negative_lora:
            files[NEGATIVE_LORA] = path
        self._keeper = keeper or PipelineKeeper()
        self._keeper.tell = reporter.line
        largest = max(
            (_params(self.family, self.source, _overlaid(self.settings, line)) for line in request.prompts),
            key=lambda params: params.width * params.height,
        )
        self.pipe = self._keeper.open(resolved, files, overrides, params=largest)

    def _read_words(self, trained: Sequence[Trained], request: GenerationRequest) -> None:
        """Token vectors: of each target its own, of all those of ``--embedding`` and of further LoRAs."""
        files = [embedding_file(path) for path in request.embeddings]
        further_words = [words_of(path) for path in (*files, *self._further_loras)]
        self._words = {
            item.main: [
                *(words_of(item.embedding or item.main) if item.main else ()),
                *(word for words in further_words for word in words),
            ]
            for item in trained
        }
        for words in self._words.values():
            require_words(self.family, words)

    def cells(self, line: PromptLine) -> list[Cell]:
        """What its pictures differ in, steps outermost, seeds innermost."""
        return [cell for _, cell in self._jobs(_overlaid(self.settings, line))]

    def _jobs(self, settings: Settings) -> list[tuple[Path | None, Cell]]:
        return [
            (target, Cell(self._steps(target), strength, seed))
            for target, strength, seed in product(self._targets, settings.strengths, settings.seeds)
        ]

    def _steps(self, target: Path | None) -> int | None:
        """How many steps what a target holds was trained for; None where that is not known."""
        if target is None or target in self._used:
            return self._used[target].trained_steps if target else None
        return next((word.trained_steps for word in self._words[target]), None)

    def images(self, line: PromptLine) -> Iterator[tuple[Cell, Image.Image, ImageRecord]]:
        """A picture for each of the cells."""
        for target, cell in self._jobs(_overlaid(self.settings, line)):
            ((image, record),) = self.batch(line, [(line.prompt, cell.seed)], target, cell.strength)
            yield cell, image, record

    def batch_size(self, line: PromptLine) -> int:
        """How many pictures like those of a line may be computed at once: of large ones, one."""
        return batch_size(_params(self.family, self.source, _overlaid(self.settings, line)), self.family)

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
            DoesNotFit: Memory runs out however little is on the device.
        """
        settings = _overlaid(self.settings, line)
        params = _params(self.family, self.source, settings)
        options = self.family.pipeline_kwargs(self.source, params)
        control_kwargs = self.family.control_kwargs(params)
        if settings.negative_prompt:
            options["negative_prompt"] = settings.negative_prompt
        strengths = ({target: strength} if target in self._names else {}) | self._further_loras
        positive = {self._names[path]: scale for path, scale in strengths.items()}
        negative = negative_scales(settings, positive, strength)
        words = self._words[target]

        def computed() -> list[Image.Image]:
            generators = [torch.Generator().manual_seed(seed) for _, seed in jobs]
            with with_words(self.pipe, self.family, words), ExitStack() as stack:
                kwargs = self._prompt_kwargs([prompt for prompt, _ in jobs], options, settings)
                if self._on_step is not None:
                    kwargs["callback_on_step_end"] = self._stepped
                stack.enter_context(refusing(self.source))
                stack.enter_context(with_adapters(self.pipe, self.family, positive, negative))
                return self.pipe(**kwargs, **control_kwargs, generator=generators).images

        images = self._keeper.computed(computed)
        used = [replace(self._used[path], strength=scale) for path, scale in strengths.items()]
        return [
            (image, replace(self._record(prompt, seed, image, options, used), words=_used_words(words)))
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
        return batch_kwargs(prompts, options)

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
            guidance=guidance_of(options),
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


def _used_words(words: Sequence[Embedding]) -> tuple[UsedWord, ...]:
    return tuple(UsedWord(word.word, word.sha256, word.trained_steps) for word in words)


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
