"""Samples during training: their prompts and control images, and the pictures that stock samplers generate.

Sampling is never able to end the training. Control images are inputs of the graph as well, by cache key.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from limner.assembly.resolve import Resolved
from limner.data.control import ControlFit, ControlImage, read_controls, view_of_control
from limner.data.folder import Example
from limner.data.images import read_image
from limner.data.order import CAPTION_PROMPTS
from limner.data.views import closest
from limner.errors import BadRecipe, LimnerError, Stopped, first_line
from limner.events import Sampled
from limner.files import atomic_write
from limner.graph.cache import text_cache_key
from limner.models.family import SamplingParams
from limner.nn import distributed
from limner.nn.layers import lora
from limner.recipe.schema import Recipe
from limner.recipe.toml import sample_lines
from limner.reporter import Reporter
from limner.run_folder import SLIDER_STRENGTHS, STRENGTH, RunDir

if TYPE_CHECKING:
    from limner.recipe.prompt_file import PromptLine
    from limner.training.model import TrainableModel

Text = Mapping[str, Tensor]
"""What the denoiser reads of a prompt."""
T = TypeVar("T")
PIXELS = 1
"""Bumped when other pixels are made of a control image: part of its cache key."""


@dataclass(frozen=True)
class ControlInput:
    """A control image at a size that the family reads it in."""

    control: ControlImage
    fit: ControlFit
    flip: bool
    """Mirrored with its target."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.fit.fitted(self.control.width, self.control.height)

    @property
    def cache_key(self) -> str:
        """By the content of the file, not by where it lies or by what it belongs to."""
        return text_cache_key(f"control {PIXELS} {self.control.sha256} {self.size} {self.flip}")

    def image(self) -> Image.Image:
        """The picture, as the stock pipeline is given it."""
        return view_of_control(self.control, self.fit, flip=self.flip)

    def tensor(self) -> Tensor:
        """(1, 3, h, w) uint8."""
        return torch.from_numpy(np.asarray(self.image()).copy()).permute(2, 0, 1)[None]


def control_inputs(
    resolved: Resolved, controls: Sequence[ControlImage], *, flip: bool = False
) -> Mapping[str, ControlInput]:
    """Input -> control image, of all that the family reads of some control images."""
    family = resolved.family
    if not family.controls:
        return {}
    fits = family.controls.fits(resolved.base.shape.resolution)
    return {
        f"{name}_{number}": ControlInput(control, fit, flip)
        for number, control in enumerate(controls, 1)
        for name, fit in fits.items()
    }


@dataclass(frozen=True)
class SamplePrompt:
    """One picture of each sample."""

    prompt: str
    controls: tuple[ControlImage, ...] = ()
    target: Example | None = None
    """The image of the folder that it could become, where the control images are that image's."""
    strength: int | None = None
    """Of a slider: the strength that it is generated at."""
    flags: "PromptLine | None" = None
    """What its line says of itself; None: it is generated as all others are."""

    @property
    def own_strength(self) -> float:
        """What the LoRA is multiplied by."""
        return 1.0 if self.flags is None or self.flags.strength is None else self.flags.strength

    @property
    def negative(self) -> str:
        """What guidance leads away from."""
        return (self.flags and self.flags.negative_prompt) or ""

    def settings(self, params: SamplingParams, number: int) -> SamplingParams:
        """How it is generated, the ``number``-th of the prompts."""
        flags = self.flags
        values = (
            {key: getattr(flags, key) for key in ("width", "height", "steps", "guidance")} if flags else {}
        )
        changes = {key: value for key, value in values.items() if value is not None}
        seed = params.seed + number if flags is None or flags.seed is None else flags.seed
        return replace(params, **changes, seed=seed)

    @property
    def label(self) -> str:
        """What stands beside the picture."""
        return self.prompt if self.strength is None else f"{self.prompt}{STRENGTH}{self.strength})"


def sample_prompts(resolved: Resolved) -> list[SamplePrompt]:
    """What is sampled: the recipe's prompts, or at most ``CAPTION_PROMPTS`` captions, or none.

    Of a slider, each at every one of ``SLIDER_STRENGTHS``, from one seed.

    Prompts for an edit model have the control images that the recipe names, else those of the folder's
    images in turn, of images that are held out first.

    Raises:
        BadRecipe: The recipe names another number of control images than its prompts need.
        BadImage: One of them cannot be read.
    """
    if resolved.recipe.sample.every == -1:
        return []
    lines, count = sample_lines(resolved.recipe), resolved.spec.controls
    texts = [text for text, _ in lines]
    _require_possible(resolved, [flags for _, flags in lines if flags])
    if resolved.recipe.train.objective == "slider":
        return [
            SamplePrompt(text, strength=strength)
            for text in texts or _captions(resolved)
            for strength in SLIDER_STRENGTHS
        ]
    recipe_controls = _named(resolved, len(texts))
    if not count:
        return [SamplePrompt(text, flags=flags) for text, flags in lines] or [
            SamplePrompt(text) for text in _captions(resolved)
        ]
    if recipe_controls:
        return [
            SamplePrompt(text, controls, flags=flags)
            for (text, flags), controls in zip(lines, recipe_controls, strict=True)
        ]
    examples = _examples(resolved)
    if not texts:
        pairs = examples[:CAPTION_PROMPTS]
        return [SamplePrompt(example.captions[0], example.controls, example) for example in pairs]
    return [
        SamplePrompt(text, example.controls, flags=flags)
        for number, (text, flags) in enumerate(lines)
        for example in [examples[number % len(examples)]]
    ]


def _require_possible(resolved: Resolved, flag_sets: "Sequence[PromptLine]") -> None:
    """Raise ``BadRecipe`` where flags of prompts ask for what this run cannot do."""
    recipe, multiple = resolved.recipe, resolved.family.multiple
    if flag_sets and recipe.train.objective == "slider":
        raise BadRecipe(
            'A sample prompt has flags, and train.objective is "slider", whose samples differ in strength '
            "alone. Remove them; sample.width, .height, .steps, .guidance and .seed hold for all."
        )
    for flags in flag_sets:
        if flags.strength is not None and (reason := _fixed_strength(recipe)):
            raise BadRecipe(
                f"The sample prompt {flags.prompt[:60]!r} asks for strength {flags.strength:g}, and "
                f"{reason}. Remove it."
            )
        base = resolved.sample_base
        guidance = base.guidance if flags.guidance is None else flags.guidance
        if flags.negative_prompt:
            option = f"--n of the sample prompt {flags.prompt[:60]!r}"
            resolved.family.require_negative_pass(base.source, guidance, option)
        for side in (flags.width, flags.height):
            if side and side % multiple:
                raise BadRecipe(
                    f"The sample prompt {flags.prompt[:60]!r} asks for {side} pixels, and sides of "
                    f"{resolved.family.name} are multiples of {multiple}. "
                    f"Set {-(-side // multiple) * multiple}."
                )


def _fixed_strength(recipe: Recipe) -> str:
    """Why what is trained has one strength only; "" where it may be multiplied."""
    if recipe.train.method == "full" or (recipe.trains_words and not recipe.inversion.with_lora):
        return f'train.method "{recipe.train.method}" trains no LoRA'
    if recipe.train.method == "instant":
        return 'train.method "instant" trains a predictor'
    return 'lora.kind is "dora", which is not linear in it' if recipe.lora.kind == "dora" else ""


def at_strength(models: Iterable[nn.Module], strength: float, compute: Callable[[], T]) -> T:
    """What is computed with the adapters of some models at a strength."""
    if strength == 1.0:
        return compute()
    try:
        for model in models:
            lora.turn(model, strength)
        return compute()
    finally:
        for model in models:
            lora.turn(model, 1.0)


def shown_images(resolved: Resolved, item: SamplePrompt) -> tuple[Image.Image, ...]:
    """The control images of a prompt as the stock pipeline is given them.

    Raises:
        BadImage: One of them cannot be read.
    """
    controls = resolved.family.controls
    images = [read_image(control.path) for control in item.controls]
    return controls.shown(resolved.base.shape.resolution, images) if controls else ()


def prompt_groups(
    resolved: Resolved, texts: Sequence[Text], empties: Sequence[Text], params: SamplingParams
) -> Iterator[tuple[Sequence[Text], Text, SamplingParams]]:
    """Prompts that are sampled in one call, with what guidance leads away from and how.

    All in one; one by one where a prompt has flags, and beside control images, each in the shape of its
    first, unless the recipe says its size.
    """
    items = sample_prompts(resolved)[: len(texts)]
    negatives = negative_prompts(items)
    sample_config = resolved.recipe.sample
    if not resolved.spec.controls and not any(item.flags for item in items):
        yield texts, empties[0], params
        return
    for number, item in enumerate(items):
        if not resolved.spec.controls:
            empty = empties[negatives.index(item.negative)]
            yield [texts[number]], empty, item.settings(params, number)
            continue
        control_images = shown_images(resolved, item)
        width, height = closest(*control_images[0].size, resolved.base.sizes.buckets)
        yield (
            [texts[number]],
            empties[number % len(empties) if len(empties) == len(items) else negatives.index(item.negative)],
            item.settings(
                replace(
                    params,
                    controls=control_images,
                    width=sample_config.width or width,
                    height=sample_config.height or height,
                ),
                number,
            ),
        )


def images_of(
    groups: Iterable[tuple[Sequence[Text], Text, SamplingParams]],
    items: Sequence[SamplePrompt],
    models: Sequence[nn.Module],
    generate: Callable[[Sequence[Text], Text, SamplingParams], Sequence[Image.Image]],
) -> list[Image.Image]:
    """The pictures of :func:`prompt_groups`, with the adapters of ``models`` at each prompt's strength."""
    return [
        image
        for group, item in zip(groups, items, strict=False)  # one group may hold all
        for image in at_strength(models, item.own_strength, partial(generate, *group))
    ]


def negative_prompts(items: Sequence[SamplePrompt]) -> list[str]:
    """What guidance leads away from in some prompt; the empty caption first, which is always there."""
    return list(dict.fromkeys(["", *(item.negative for item in items)]))


def prompts_of(resolved: Resolved) -> list[str]:
    """The labels of :func:`sample_prompts`."""
    return [item.label for item in sample_prompts(resolved)]


def _captions(resolved: Resolved) -> list[str]:
    """Captions of every set in turn, so that each is seen."""
    count = len(resolved.folders)
    by_set: list[dict[str, None]] = [{} for _ in range(count)]
    for view in resolved.own:
        if view.caption:
            by_set[view.example.dataset][view.caption] = None
    turns = (caption for captions in zip_longest(*by_set) for caption in captions if caption)
    return list(dict.fromkeys(turns))[: max(CAPTION_PROMPTS, count)]


def _examples(resolved: Resolved) -> list[Example]:
    """The images of the person, those first that are measured on."""
    views = (*resolved.held_out, *resolved.own) if resolved.truly_held_out else resolved.own
    return list({view.example.sha256: view.example for view in views}.values())


def _named(resolved: Resolved, texts: int) -> list[tuple[ControlImage, ...]]:
    """The control images of the recipe, prompt by prompt."""
    files, count, fit = resolved.recipe.sample.control, resolved.spec.controls, resolved.base.control_fit
    if len(files) != (texts * count if files else 0):
        words = f" with {count} control images each" if count else ", and the base reads no control images"
        raise BadRecipe(
            f"sample.control names {len(files)} images; there are {texts} prompts{words}. "
            + (f"Name {texts * count}, in the order of the prompts." if texts * count else "Remove it.")
        )
    controls = read_controls([[file] for file in files], len(files), fit)
    return [tuple(controls[start : start + count]) for start in range(0, len(controls), count or 1)]


FAILURES = (LimnerError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, OSError)
"""What may go wrong in a stock sampler, out of memory included; not signals, not the end of the process."""


def sample(  # noqa: PLR0913  what is painted, and what may break it off
    model: "TrainableModel",
    run: RunDir,
    step: int,
    reporter: Reporter,
    breakable: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    patient: bool = False,
) -> None:
    """Sample the run's prompts with the weights as they stand after ``step`` steps.

    What goes wrong here is said and passed over: training is worth more than a picture. Within ``breakable``
    a signal may break it off. Where weights are split over processes, all of them sample, to the end.

    Raises:
        OutOfMemoryError: If ``patient``: the caller will try again with less in use.
    """
    if distributed.rank() != 0 and not model.sharding:
        return
    prompts = prompts_of(model.resolved)
    try:
        with nullcontext() if model.sharding else breakable():
            images = model.sample(len(prompts))
            if distributed.rank() != 0:
                return
            for number, image in enumerate(images):
                atomic_write(run.sample_path(step, number), partial(image.save, format="PNG"))
            reporter.event(Sampled(step=step, paths=tuple(run.samples().get(step, {}).values())))
    except Stopped:
        raise
    except FAILURES as error:
        if (patient or model.sharding) and isinstance(error, torch.OutOfMemoryError):
            raise
        reporter.line(f"Samples at step {step} failed ({first_line(error)}); training goes on.")
