"""How much a run has to do beside its steps: images to encode, to sample and to measure. No torch."""

from dataclasses import dataclass
from math import ceil

from limner.data.file_index import image_sizes
from limner.data.order import CAPTION_PROMPTS, QUANTILES, SUBSET, held_out
from limner.recipe.schema import Recipe
from limner.recipe.toml import prompts, sample_lines
from limner.run_folder import SLIDER_STRENGTHS

IMAGES = 10
"""Images that are assumed where there are none yet."""


@dataclass(frozen=True)
class Counts:
    """How much there is to do, beside the training steps."""

    images: int
    images_unknown: bool
    """Whether the number of images is a guess."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of the images, pixels."""
    views: int
    captions: int
    samples: int
    """Samples generated in the course of the run."""
    validation_passes: int
    """Forward passes of one image for the validation loss."""


def own_sizes(recipe: Recipe) -> list[tuple[int | None, int | None, float | None]]:
    """Width, height and guidance that sample prompts have of their own."""
    lines = (line for _, line in sample_lines(recipe) if line)
    sizes = dict.fromkeys((line.width, line.height, line.guidance) for line in lines)
    return [size for size in sizes if size != (None, None, None)]


def largest_sample(recipe: Recipe, side: int, guidance: float | None) -> tuple[int, int, float | None]:
    """Width and height of the sample with most pixels, and the strongest guidance of any."""
    sample, prompt_sizes = recipe.sample, own_sizes(recipe)
    standard = (sample.width or side, sample.height or side)
    sizes = [standard, *((width or standard[0], height or standard[1]) for width, height, _ in prompt_sizes)]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    scales = [value for value in (guidance, *(value for *_, value in prompt_sizes)) if value is not None]
    return width, height, max(scales, default=None)


def sizes_of_sets(recipe: Recipe) -> list[tuple[int, int]]:
    """(width, height) of the images of all sets, pixels; none where there is no folder yet."""
    return [size for root in recipe.data.roots for size in image_sizes(root)]


def generated_images(recipe: Recipe) -> int:
    """Images that the base generates to be trained on: a teacher's, or a slider's."""
    distill, slider = recipe.distill, recipe.slider
    if recipe.train.objective == "slider":
        return len(slider.neutral) * slider.images_per_prompt
    return len(distill.prompts) * distill.images_per_prompt if recipe.train.objective == "distill" else 0


def counts_of(recipe: Recipe, sizes: list[tuple[int, int]] | None = None) -> Counts:
    """How much there is to encode, to sample and to measure. Sizes are those of the images if left out."""
    folders, train = recipe.data.folders, recipe.train
    image_count = generated_images(recipe)
    size_lists = [image_sizes(root) for root in recipe.data.roots] if sizes is None else [sizes]
    counts = [len(set_sizes) for set_sizes in size_lists]
    sizes = [size for set_sizes in size_lists for size in set_sizes]
    images = len(sizes) or image_count or IMAGES
    counts = counts if sizes else [images]
    validation_images = sum(
        held_out(count, entry.validation_count) for count, entry in zip(counts, folders, strict=False)
    )
    mirrored = sum(count for count, entry in zip(counts, folders, strict=False) if entry.flip)
    is_slider = train.objective == "slider"
    captions = len(recipe.slider.neutral or recipe.distill.prompts) or images
    prompt_count = len(prompts(recipe)) or min(CAPTION_PROMPTS, captions)
    interval = recipe.sample.every
    rounds = 0 if interval == -1 else 2 if interval == 0 else 2 + max(0, train.steps - 1) // interval
    class_images = sum(recipe.prior.counts)
    views = images + mirrored + class_images
    checks = 1 + ceil(train.steps / (train.validation_every or train.save_every))
    return Counts(
        images=images,
        images_unknown=not (sizes or image_count),
        sizes=tuple(sizes),
        views=views,
        captions=images * (3 if is_slider else 2 if recipe.prior.taught else 1)
        + len(recipe.prior.prompts)
        + (prompt_count + 1 if rounds else 0),
        samples=rounds * prompt_count * (len(SLIDER_STRENGTHS) if is_slider else 1)
        + class_images
        + image_count,
        validation_passes=checks * len(QUANTILES) * (validation_images or min(SUBSET, images)),
    )
