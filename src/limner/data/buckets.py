"""Aspect buckets: the sizes that images are trained at. Integers only; no image is opened."""

from collections.abc import Sequence
from fractions import Fraction

from limner.errors import BadRecipe

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


def closest(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that an image of ``width`` x ``height`` loses least to, when cropped to its shape."""

    def kept(size: tuple[int, int]) -> Fraction:
        scaled_width, scaled_height = width * size[1], height * size[0]
        return Fraction(min(scaled_width, scaled_height), max(scaled_width, scaled_height))

    return max(sizes, key=lambda size: (kept(size), size[0] * size[1], size))


def largest(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the largest crop of an image that has the shape of ``size``, to a pixel."""
    crop_width = min(width, max(1, (2 * height * size[0] + size[1]) // (2 * size[1])))
    crop_height = min(height, max(1, (2 * width * size[1] + size[0]) // (2 * size[0])))
    return crop_width, crop_height


def central(width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest central (left, top, right, bottom) of an image of the shape of ``size``, to a pixel."""
    crop_width, crop_height = largest(width, height, size)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
