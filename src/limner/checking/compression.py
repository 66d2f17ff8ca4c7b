"""How much JPEG has taken from a picture: what its tables say, and the blocks that can be seen."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

STANDARD_SUM = 3688
"""Sum of the example luminance table (ITU-T T.81, table K.1), which quality 50 uses as it is."""
JUMP = 24
"""Gray levels: what JPEG leaves between blocks is a small step; a larger one is part of the picture."""
BLOCK = 8
SQUARES = 0.3
"""Share of large steps where blocks meet beyond which the picture itself is made of squares."""
CONTOURS = 0.5
"""Of the changes from cell to cell of enlarged pixel art, the share that are large at least."""
FLOOR = 0.5
"""Levels that are added to both sides: steps of less than that are not seen."""


def quality(table: Sequence[int]) -> int | None:
    """The quality, 1 to 100, at which libjpeg would use a table as coarse as this; None where there is none.

    Below 25 it comes out a little too high: steps end at 255.

    Args:
        table: The 64 steps of the luminance table.
    """
    if not table:
        return None
    scale = 100 * sum(table) / STANDARD_SUM
    return max(1, min(100, round((200 - scale) / 2 if scale <= 100 else 5000 / scale)))


def blockiness(gray: np.ndarray) -> float:
    """How much larger small steps are where 8-pixel blocks meet than elsewhere: 1 is no blocks at all.

    The largest over the eight places that the grid may start at, so that cropped pictures count as well, and
    the smaller of both directions: one may have lines of its own.

    Args:
        gray: (H, W) uint8, at the file's own resolution: scaling hides blocks.
    """
    if min(gray.shape) < 8 * BLOCK:
        return 1.0
    values = gray.astype(np.int16)
    return min(_steps(np.abs(np.diff(view, axis=1))) for view in (values, values.T))


def _steps(steps: np.ndarray) -> float:
    small, large = (steps * (steps <= JUMP)).mean(axis=0), (steps > JUMP).mean(axis=0)
    strengths = np.array([small[offset::BLOCK].mean() for offset in range(BLOCK)])
    strongest = int(strengths.argmax())
    leaps = np.array([large[offset::BLOCK].mean() for offset in range(BLOCK)])
    if leaps[strongest] > SQUARES or _is_enlarged(steps):
        return 1.0
    return float((strengths[strongest] + FLOOR) / (np.median(np.delete(strengths, strongest)) + FLOOR))


def _is_enlarged(steps: np.ndarray) -> bool:
    """Whether the picture was enlarged by whole times without smoothing, as pixel art is.

    Neighbours within a cell are equal then, everywhere. Of cells as large as JPEG's blocks it is told by the
    contours: a JPEG so coarse that its blocks are plain has small steps between them.
    """
    changing = np.flatnonzero((steps > 0).any(axis=0))
    period = int(np.gcd.reduce(np.diff(changing))) if len(changing) > 1 else 1
    if period != BLOCK:
        return period > 1
    return bool(np.count_nonzero(steps > JUMP) > CONTOURS * np.count_nonzero(steps))


def native(image: Image.Image, side: int) -> np.ndarray:
    """The middle of a picture in gray, at most ``side`` pixels square, not scaled: (H, W) uint8."""
    left, top = max(0, (image.width - side) // 2), max(0, (image.height - side) // 2)
    part = image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))
    return np.asarray(part.convert("L"))
