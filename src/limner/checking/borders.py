"""Bars and frames around a picture: bands of one colour on opposite sides that end in a straight edge."""

import numpy as np

TOLERANCES = (2, 6)
"""Levels by which the pixels of a bar may differ from its colour: as drawn, and what JPEG leaves."""
EDGE = 2.5
"""Times as many levels by which the picture's first rows differ from the bar's last ..."""
EDGE_SHARE = 0.6
"""... along this share of its length. A plain backdrop ends where the subject begins, not in a line."""
CORNER_SHARE = 0.3
"""The same in the first and the last tenth: a bar leaves the picture its corners, a backdrop none."""
MIN_ROWS = 3
"""Thinner bars are the outermost pixels of a picture."""
STRIDE = 4
"""Every so many pixels of a row are looked at."""
MIN_WIDTH, MAX_WIDTH = 0.008, 0.4
"""Width of a bar, as a share of the picture's side."""


def borders(rgb: np.ndarray) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) bars as shares of the width and the height; 0 where there is none.

    Args:
        rgb: (H, W, 3) uint8.
    """
    values = rgb.astype(np.int16)
    top, bottom, upright = _pair(values[:, ::STRIDE])
    inner = values[top : len(values) - bottom : STRIDE]
    left, right, level = _pair(inner.transpose(1, 0, 2))
    if not (top and left):  # the bars of a frame meet at its corners
        top, bottom, left, right = top * upright, bottom * upright, left * level, right * level
    return left / rgb.shape[1], top / rgb.shape[0], right / rgb.shape[1], bottom / rgb.shape[0]


def _pair(rows: np.ndarray) -> tuple[int, int, bool]:
    """Rows of two bars of one colour at both ends, or 0, and whether both run from corner to corner."""
    (first, reaches), (last, too) = _bar(rows), _bar(rows[::-1])
    colours = np.abs(np.median(rows[0], axis=0) - np.median(rows[-1], axis=0)).max() if len(rows) else 0
    is_pair = first and last and colours <= 2 * TOLERANCES[1]
    return (first, last, reaches and too) if is_pair else (0, 0, False)


def _bar(rows: np.ndarray) -> tuple[int, bool]:
    """How many rows are of one colour and end in a line, and whether the line runs from corner to corner."""
    limit = int(len(rows) * MAX_WIDTH) + 2
    far = np.abs(rows[:limit] - np.median(rows[0], axis=0)).max(axis=2)
    for tolerance in TOLERANCES:
        plain = (far <= tolerance).mean(axis=1) > 0.995
        count = int(plain.argmin()) if not plain.all() else len(plain)
        if not max(MIN_ROWS, MIN_WIDTH * len(rows)) <= count < limit - 2:
            continue
        # Scaling blurs the edge over a row or two.
        step = np.abs(rows[count : count + 3] - rows[count - 2]).max(axis=(0, 2)) > EDGE * tolerance - 1
        tenth = -(-step.size // 10)
        if step.mean() > EDGE_SHARE:
            return count, bool(min(step[:tenth].mean(), step[-tenth:].mean()) > CORNER_SHARE)
    return 0, False
