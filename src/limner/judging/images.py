"""The images that are judged, as files in the run folder: each is generated once."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from limner.files import atomic_write
from limner.generation.generate import ImageSampler
from limner.generation.image_files import slug
from limner.generation.settings import GenerationRequest
from limner.judging.request import JudgeRequest
from limner.lora import file
from limner.recipe.prompt_file import PromptLine
from limner.reporter import Reporter, duration

DIGEST = 12
"""Hex digits of what else makes an image, in its name."""


@dataclass(frozen=True)
class JudgeImage:
    """One image: what it shows, and its file."""

    line: PromptLine
    step: int
    """0 is the base."""
    strength: float
    seed: int
    path: Path


class ImageTable:
    """All images of a request.

    Args:
        request: What is judged.

    Raises:
        BadLora: A LoRA cannot be read.
    """

    def __init__(self, request: JudgeRequest) -> None:
        """See the class."""
        self.request = request
        self._hashes = {step: file.bytes_hash(path) for step, path in request.loras.items()} | {0: ""}
        self.images = {
            (line, step, strength, seed): JudgeImage(
                line, step, strength, seed, self._path(line, step, strength, seed)
            )
            for line in dict.fromkeys((*request.lines, *request.plain))
            for step, strength in request.grid
            for seed in request.settings.seeds
        }

    def _path(self, line: PromptLine, step: int, strength: float, seed: int) -> Path:
        recipe, settings = self.request.recipe, self.request.settings
        key = {
            "line": {**asdict(line), "controls": [str(path) for path in line.controls or ()]},
            "lora": self._hashes[step],
            "base": [recipe.base, recipe.components_from, recipe.sample.base],
            "sampling": [settings.steps, settings.guidance, settings.width, settings.height],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:DIGEST]
        folder = self.request.run.judge_images_path / f"step-{step:06d}"
        return folder / f"{slug(line.prompt)}-strength{strength:g}-seed{seed}-{digest}.png"

    def due(self) -> list[JudgeImage]:
        """Those that are not there yet."""
        return [image for image in self.images.values() if not image.path.is_file()]

    def fill(self, missing: list[JudgeImage], reporter: Reporter) -> float | None:
        """Generate images.

        Args:
            missing: Which ones.
            reporter: Is told how long it will take, once that is known.

        Returns:
            Seconds per image; None where there was at most one.

        Raises:
            LimnerError: The base or a LoRA cannot be used.
        """
        if not missing:
            return None
        request, recipe = self.request, self.request.recipe
        sampler = ImageSampler(
            GenerationRequest(
                targets=tuple(request.loras.values()),
                prompts=tuple(dict.fromkeys(image.line for image in missing)),
                out=request.run.judge_images_path,
                sample_base="" if recipe.sample.base == "own" else recipe.sample.base,
                settings=request.settings,
            ),
            reporter,
        )
        clock = _Clock(len(missing), reporter.line)
        total = len(self.images)
        with reporter.progress("Generating", total, total - len(missing)) as bar:
            for batch in _batches(missing, sampler):
                first = batch[0]
                target = request.loras[first.step or min(request.loras)]
                jobs = [(image.line.prompt, image.seed) for image in batch]
                results = sampler.batch(first.line, jobs, target, first.strength)
                for image, (pixels, record) in zip(batch, results, strict=True):
                    info = record.png_info()
                    atomic_write(image.path, partial(pixels.save, format="PNG", pnginfo=info), sync=False)
                clock.advance(len(batch))
                bar.advance(len(batch), first.path.name)
        return clock.pace


def _batches(missing: list[JudgeImage], sampler: ImageSampler) -> Iterator[list[JudgeImage]]:
    """Images of one step and strength that are sampled alike, as many as are computed at once."""
    groups: dict[Any, list[JudgeImage]] = {}
    for image in missing:
        key = image.step, image.strength, replace(image.line, prompt="")
        groups.setdefault(key, []).append(image)
    for group in groups.values():
        size = sampler.batch_size(group[0].line)
        for start in range(0, len(group), size):
            yield group[start : start + size]


class _Clock:
    """Tells once how long it will take, after the second batch: the first one warms up."""

    def __init__(self, count: int, tell: Callable[[str], None]) -> None:
        self._count, self._tell = count, tell
        self._batches = self._first = self._images = 0
        self._start = time.monotonic()

    def advance(self, images: int) -> None:
        """Note that images are there."""
        self._batches += 1
        self._images += images
        if self._batches == 1:
            self._start, self._first = time.monotonic(), images
        rest = self._count - self._images
        if self._batches == 2 and rest and self.pace:
            self._tell(
                f"{self.pace:.2g} s an image: about {duration(rest * self.pace)} for the other {rest}."
            )

    @property
    def pace(self) -> float | None:
        """Seconds per image so far; None where there was one batch alone."""
        count = self._images - self._first
        return (time.monotonic() - self._start) / count if count else None


def opened(path: Path, side: int | None = None) -> Image.Image:
    """An image as RGB, at most ``side`` pixels long."""
    with Image.open(path) as image:
        result: Any = image.convert("RGB")
    if side:
        result.thumbnail((side, side))
    return result
