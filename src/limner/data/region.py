"""The part of an image that counts, where a person says so: a file beside it, or a column of the metadata."""

import re

from limner.errors import BadData

REGION = ".crop"
"""Ending of the file: ``cat.crop`` beside ``cat.jpg``."""

_NUMBER = re.compile(r"-?\d{1,9}")
_SEPARATORS = re.compile(r"[\s,;\[\]()]+")


def region(text: str, width: int, height: int) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) in pixels of the upright image; None where nothing is said.

    Args:
        text: Four whole numbers, separated by spaces or commas; brackets are passed over.
        width: Of the upright image, in pixels.
        height: The same.

    Raises:
        BadData: Other than four whole numbers, an empty part, or one that leaves the image.
    """
    words = [word for word in _SEPARATORS.split(text) if word]
    if not words:
        return None
    if len(words) != 4 or not all(_NUMBER.fullmatch(word) for word in words):
        raise BadData(
            f"has the crop {text.strip()[:60]!r}. Write four whole numbers: left top right bottom, in pixels."
        )
    left, top, right, bottom = (int(word) for word in words)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadData(
            f"has the crop {left} {top} {right} {bottom}, which is no part of its {width} x {height} pixels. "
            "Write left top right bottom, in pixels of the image as viewers turn it."
        )
    return left, top, right, bottom
