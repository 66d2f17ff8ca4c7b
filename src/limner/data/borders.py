"""Bars and frames around a picture: bands of one colour on opposite sides that end in a straight edge."""

import numpy as np

SAME = 6
"""Levels by which the pixels of a bar may differ from its colour: JPEG leaves that much."""
EDGE = 14
"""Levels by which the first row of the picture differs from the bar ..."""
ALONG = 0.6
"""... along this share of its length. A plain backdrop ends where the subject begins, not in a line."""
THIN = 4
"""Every so many pixels of a row are looked at."""
LEAST, MOST = 0.008, 0.4
"""Width of a bar, as a share of the picture's side."""


def borders(rgb: np.ndarray) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) bars as shares of the width and the height; 0 where there is none.

    Args:
        rgb: (H, W, 3) uint8.
    """
    values = rgb.astype(np.int16)
    top, bottom = _pair(values[:, ::THIN])
    inner = values[top : len(values) - bottom : THIN]
    left, right = _pair(inner.transpose(1, 0, 2))
    return left / rgb.shape[1], top / rgb.shape[0], right / rgb.shape[1], bottom / rgb.shape[0]


def _pair(rows: np.ndarray) -> tuple[int, int]:
    """Rows of the bars at both ends, (0, 0) unless there are two of one colour."""
    first, last = _bar(rows), _bar(rows[::-1])
    colours = np.abs(np.median(rows[0], axis=0) - np.median(rows[-1], axis=0)).max() if len(rows) else 0
    return (first, last) if first and last and colours <= 2 * SAME else (0, 0)


def _bar(rows: np.ndarray) -> int:
    colour = np.median(rows[0], axis=0)
    most = int(len(rows) * MOST) + 2
    far = np.abs(rows[:most] - colour).max(axis=2)
    plain = (far <= SAME).mean(axis=1) > 0.995
    count = int(plain.argmin()) if not plain.all() else len(plain)
    if not max(1, LEAST * len(rows)) <= count < most - 2:
        return 0
    # Scaling blurs the edge over a row or two.
    after = far[count : count + 3].max(axis=0) if count + 3 <= len(far) else far[count:].max(axis=0)
    return count if (after > EDGE).mean() > ALONG else 0
