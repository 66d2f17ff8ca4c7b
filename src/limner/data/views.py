"""Views: an example with every finite choice made, its bucket first. A cache holds a list of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import zip_longest

import numpy as np
from PIL import Image

from limner.data.control import ControlFit
from limner.data.folder import Example
from limner.data.images import BadImage, decode
from limner.errors import BadData, BadRecipe

STEPS_PER_SIDE = 16
"""Short sides differ by a 16th of the resolution: fine enough to crop little, coarse enough to batch."""


def buckets(resolution: int, *, multiple: int, max_aspect: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Sizes (width, height) of nearly, and never more than, ``resolution`` squared pixels.

    Sides are multiples of ``multiple``; no size is longer than ``max_aspect`` to 1. From tall to wide.

    Args:
        resolution: Pixels of the side of the square.
        multiple: What the model can divide: pixels of a latent patch.
        max_aspect: Longest side over shortest, at least 1.

    Raises:
        BadRecipe: The resolution is smaller than one patch, or an argument is out of range.
    """
    if multiple < 1 or max_aspect < 1:
        raise BadRecipe(f"buckets of multiple {multiple} and aspect {max_aspect}: both must be at least 1.")
    side = resolution // multiple * multiple
    if side < multiple:
        raise BadRecipe(f"data.resolution is {resolution}; this base needs at least {multiple}. Raise it.")
    step = max(1, round(resolution / STEPS_PER_SIDE / multiple)) * multiple
    wide: list[tuple[int, int]] = []
    for short in range(side - step, 0, -step):
        long = side * side // short // multiple * multiple
        if long > max_aspect * short:
            break
        if long > short:
            wide.append((long, short))
    return (*((short, long) for long, short in reversed(wide)), (side, side), *wide)


@dataclass(frozen=True, slots=True)
class Scale:
    """One training resolution."""

    buckets: tuple[tuple[int, int], ...]
    """(width, height) in pixels."""
    draws: int = 1
    """How many draws of each image an epoch has at it."""


def sizes_at(width: int, height: int, scales: Sequence[Scale]) -> tuple[tuple[int, int], ...]:
    """The bucket that an image is seen in at each resolution, (width, height) in pixels.

    In place of one that it would have to be enlarged for, it is that of the next smaller resolution. The
    smallest has every image.

    Args:
        width: Pixels of the image, or of the part of it that counts.
        height: Likewise.
        scales: From the smallest to the largest.
    """
    sizes: list[tuple[int, int]] = []
    for scale in scales:
        size = closest(width, height, scale.buckets)
        crop_width, crop_height = largest(width, height, size)
        fills = crop_width >= size[0] and crop_height >= size[1]
        sizes.append(size if fills or not sizes else sizes[-1])
    return tuple(sizes)


@lru_cache(maxsize=2**14)
def closest(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The size that an image of ``width`` x ``height`` loses least to, when cropped to its shape."""

    def kept(size: tuple[int, int]) -> Fraction:
        scaled_width, scaled_height = width * size[1], height * size[0]
        return Fraction(min(scaled_width, scaled_height), max(scaled_width, scaled_height))

    return max(sizes, key=lambda size: (kept(size), size[0] * size[1], size))


@lru_cache(maxsize=2**14)
def largest(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the largest crop of an image that has the shape of ``size``, to a pixel."""
    crop_width = min(width, max(1, (2 * height * size[0] + size[1]) // (2 * size[1])))
    crop_height = min(height, max(1, (2 * width * size[1] + size[0]) // (2 * size[0])))
    return crop_width, crop_height


@lru_cache(maxsize=2**14)
def central(width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest central (left, top, right, bottom) of an image of the shape of ``size``, to a pixel."""
    crop_width, crop_height = largest(width, height, size)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


Crops = Mapping[tuple[Example, tuple[int, int]], tuple[int, int, int, int]]
"""Image and bucket -> crop that is not the central one: (left, top, right, bottom) in upright pixels."""
REDUCING_GAP = 3.0
"""Shrink by whole factors to 3x the wanted size before LANCZOS: 55 dB PSNR against LANCZOS alone."""


@dataclass(frozen=True, slots=True)
class View:
    """One picture and one text, as the model will see them."""

    example: Example
    size: tuple[int, int]
    """(width, height) in pixels, a bucket."""
    crop: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels of the upright source, of the shape of ``size`` to a pixel."""
    flip: bool
    """Mirrored left to right, after the crop."""
    caption: str
    """Empty when it is dropped."""
    control_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of each control image as the family sees it, pixels."""
    draws: int = 1
    """How many draws of its image an epoch has in this bucket."""

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the image and of its control images: what views of one micro-batch share."""
        return (self.size, *self.control_sizes)

    @property
    def frame(self) -> tuple[int, int, int, int, int, int]:
        """Source height and width; top and left of the crop at the scale of ``size``; its height and width.

        What SDXL is told of each image (Podell et al. 2023, arXiv:2307.01952, section 2.2). Mirrored views
        count from the edge that was on the right.
        """
        (width, height), (left, top, right, bottom) = self.size, self.crop
        edge = self.example.width - right if self.flip else left
        scale_y, scale_x = height / (bottom - top), width / (right - left)
        return (
            self.example.height,
            self.example.width,
            round(top * scale_y),
            round(edge * scale_x),
            height,
            width,
        )


def sizes_of(example: Example, scales: Sequence[Scale]) -> dict[tuple[int, int], int]:
    """Bucket, (width, height), of an example -> its draws there in an epoch; the largest first."""
    return size_finder(scales)(example)


def size_finder(scales: Sequence[Scale]) -> Callable[[Example], dict[tuple[int, int], int]]:
    """:func:`sizes_of` for many examples: most have one of few sizes, and share what is found of it."""

    @cache
    def of(width: int, height: int) -> dict[tuple[int, int], int]:
        draws: dict[tuple[int, int], int] = {}
        sizes = sizes_at(width, height, scales)
        for size, scale in zip(reversed(sizes), reversed(scales), strict=True):
            draws[size] = draws.get(size, 0) + scale.draws
        return draws

    def of_example(example: Example) -> dict[tuple[int, int], int]:
        left, top, right, bottom = example.extent
        return of(right - left, bottom - top)

    return of_example


def smallest_sizes(views: Sequence["View"]) -> dict[Example, tuple[int, int]]:
    """Each image of some views -> the smallest bucket that it is seen in: that of the last of its views."""
    pairs = zip_longest(views, views[1:])
    lasts = (view for view, after in pairs if after is None or after.example is not view.example)
    return {view.example: view.size for view in lasts}


def size_of(example: Example, scales: Sequence[Scale]) -> tuple[int, int]:
    """The largest bucket, (width, height), that an example is seen in."""
    return next(iter(sizes_of(example, scales)))


def require_filled(examples: Sequence[Example], scales: Sequence[Scale], sides: Sequence[int]) -> None:
    """Raise ``BadRecipe`` where no image fills one of several resolutions: nothing would be seen at it.

    Args:
        examples: The images of all sets.
        scales: From the smallest to the largest, which every image has to fill but the first.
        sides: The resolutions, in any order.
    """
    extents = [(right - left, bottom - top) for left, top, right, bottom in (e.extent for e in examples)]
    for number, side in enumerate(sorted(sides)):
        buckets_here = scales[number].buckets
        if any(sizes_at(*size, scales)[number] == closest(*size, buckets_here) for size in extents):
            continue
        width, height = max(extents, key=min)
        raise BadRecipe(
            f"data.resolution has {side}, and none of {len(extents)} images fills it, the largest of which "
            f"has {width} x {height} pixels: none is enlarged. Remove {side}."
        )


def require_pairs(examples: Sequence[Example], scales: Sequence[Scale]) -> None:
    """Raise ``BadData`` unless each is a teacher's picture with its start noise, which nothing may crop."""
    for example in examples:
        if example.seed is None:
            raise BadData(
                f"{example.path}: a teacher's picture goes with the seed of its start noise, and has none. "
                'Write "seed" beside "text" in metadata.jsonl, or name distill.prompts for the base.'
            )
        size = example.width, example.height
        if size != size_of(example, scales):
            raise BadData(
                f"{example.path} has {size[0]} x {size[1]} pixels, which is no bucket of data.resolution: "
                "its start noise would not fit. Set data.resolution to the teacher's."
            )


def centre(example: Example, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The central crop of an example for a bucket."""
    left, top, right, bottom = example.extent
    crop = central(right - left, bottom - top, size)
    if not (left or top):
        return crop  # one object for all images of a size
    return left + crop[0], top + crop[1], left + crop[2], top + crop[3]


def views(
    examples: Sequence[Example],
    *,
    scales: Sequence[Scale],
    flip: bool,
    dropout: bool,
    crops: Crops | None = None,
    fit: ControlFit | None = None,
) -> tuple[View, ...]:
    """Every view of every example: sizes x flips x caption variants, in the order of the examples.

    Args:
        examples: What ``read_folder`` found.
        scales: Resolutions, from the smallest to the largest; of each, an example takes the bucket that crops
            it least.
        flip: Add mirrored views.
        dropout: Add views with the empty caption.
        crops: Crops that differ from the central one, such as those that follow the subject.
        fit: How large control images become; None: there are none.

    Raises:
        BadData: A crop leaves nothing of a mask but black.
    """
    result: list[View] = []
    sizes_of_example = size_finder(scales)
    for example in examples:
        captions = dict.fromkeys((*example.captions, "") if dropout else example.captions)
        flips = (False, True) if flip else (False,)
        controls = tuple(fit.fitted(item.width, item.height) for item in example.controls) if fit else ()
        for size, draws in sizes_of_example(example).items():
            best = crops.get((example, size)) if crops else None
            crop = best or centre(example, size)
            _require_sight(example, size, crop)
            result += [
                View(example, size, crop, turn, caption, controls, draws)
                for turn in flips
                for caption in captions
            ]
    return tuple(result)


def pixels(view: View) -> np.ndarray:
    """The picture of a view: uint8 (H, W, 3), RGB, 0..255.

    A JPEG is decoded no larger than needed (``read_image``), then the crop is resized with LANCZOS.

    Raises:
        BadImage: The file cannot be read, or is not the one that the folder held.
    """
    image, full = decode(view.example.path, wanted(view))
    return seen(image, full, view)


def wanted(view: View) -> tuple[int, int]:
    """(width, height) of the whole source at which its crop has the size of the view."""
    (width, height), (left, top, right, bottom) = view.size, view.crop
    return -(-view.example.width * width // (right - left)), -(
        -view.example.height * height // (bottom - top)
    )


def seen(image: Image.Image, full: tuple[int, int], view: View) -> np.ndarray:
    """``pixels``, of a source that is decoded already.

    Args:
        image: The whole source, upright RGB, at any scale.
        full: Its size in the file, (width, height), which the crop is told in.
        view: What to take of it.

    Raises:
        BadImage: The file is not the one that the folder held.
    """
    whole = (view.example.width, view.example.height)
    if full != whole:
        was = f"{whole[0]} x {whole[1]}, now {full[0]} x {full[1]}"
        raise BadImage(view.example.path, f"has changed since the folder was read ({was}). Run again.")
    left, top, right, bottom = view.crop
    scale_x, scale_y = image.width / full[0], image.height / full[1]
    box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
    small = image.resize(view.size, Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)
    if view.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(small).copy()


def mask_pixels(view: View) -> np.ndarray:
    """The mask of a view: uint8 (H, W), 255 counts in full; it does everywhere where the image has none.

    Raises:
        BadImage: The file cannot be read, or is not the one that the folder held.
    """
    mask, (left, top, right, bottom) = view.example.mask, view.crop
    if mask is None:
        return np.full(view.size[::-1], 255, np.uint8)
    (width, height), whole = (mask.width, mask.height), (view.example.width, view.example.height)
    box = (
        left * width / whole[0],
        top * height / whole[1],
        right * width / whole[0],
        bottom * height / whole[1],
    )
    small = mask.image().resize(view.size, Image.Resampling.BOX, box=box)
    if view.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(small).copy()


def _require_sight(example: Example, size: tuple[int, int], crop: tuple[int, int, int, int]) -> None:
    """Raise ``BadData`` where a crop leaves nothing of a mask but black. Most masks are not opened for it."""
    if (mask := example.mask) is None:
        return
    left, top, right, bottom = mask.bounds
    scale_x, scale_y = example.width / mask.width, example.height / mask.height
    box = left * scale_x, top * scale_y, right * scale_x, bottom * scale_y
    if crop[0] <= box[0] and crop[1] <= box[1] and box[2] <= crop[2] and box[3] <= crop[3]:
        return
    if not mask_pixels(View(example, size, crop, flip=False, caption="")).any():
        raise BadData(
            f"{example.path}: the crop to {size[0]} x {size[1]} leaves nothing of its mask but black. Crop "
            "it yourself, or say what counts in a .crop file."
        )
