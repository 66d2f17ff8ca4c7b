"""Marks laid over pictures, such as a stock site's name: what several pictures share at one place.

What repeats at fixed pixels while everything else changes is no part of the scenes (Dekel and others 2017,
"On the effectiveness of visible watermarks"). A single small mark on a single picture is not found this way.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

CANVAS = 256
"""Pixels of the longer side at which marks are compared."""
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle")
FRAME = 96
"""Pixels of the square that is compared at each place."""
SHARED = (0.45, 0.45, 0.45, 0.45, 0.6)
"""Correlation of two pictures' edges, by place, that only a shared mark gives: at 0.3, four of 112 clean
pictures were said to share one in a corner; in the middle are the subjects."""
TRACE = 0.5
"""Of that: enough beside the mean of those that share a mark, in which scenes cancel. Others have 0.1."""
ELSEWHERE = 0.5
"""The same in the other frames: beyond this, the pictures themselves are alike."""
BUSY = 0.3
"""Gray levels: mean second difference of a frame below which it is empty."""
LIMIT = 6.0
"""Gray levels: larger differences count as this."""


def frames(rgb: np.ndarray) -> np.ndarray:
    """The edges of a picture at each place: (5, 2 * 96 * 96) float16. About 10 ms.

    Each row has length 1, or is zero where the frame is empty.

    Args:
        rgb: (H, W, 3) uint8.
    """
    image = Image.fromarray(rgb).convert("L")
    scale = min(1.0, CANVAS / max(image.size))  # enlarging would give all pictures one pattern
    size = max(FRAME, round(image.width * scale)), max(FRAME, round(image.height * scale))
    gray = np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)
    return np.stack([_edges(part) for part in _parts(gray)])


def shared(every: Sequence[np.ndarray]) -> list[tuple[list[int], str]]:
    """Pictures that carry one mark, at least three of them, and where, given the frames of each."""
    found: list[tuple[list[int], str]] = []
    if len(every) < 3:
        return found
    alike = np.stack([_correlations(every, place) for place in range(len(PLACES))])
    for place, name in enumerate(PLACES):
        others = np.delete(alike, place, axis=0)
        pairs = (alike[place] > SHARED[place]) & (np.median(others, axis=0) < ELSEWHERE)
        np.fill_diagonal(pairs, val=False)
        best = int(pairs.sum(axis=1).argmax())
        group = [best]
        for at in np.argsort(-alike[place][best]).tolist():  # each with all: by chance two may agree
            if all(pairs[at, member] for member in group):
                group.append(at)
        if len(group) >= 3:
            found.append((sorted({*group, *_bearing(every, group, place)}), name))
    return found


def _bearing(every: Sequence[np.ndarray], group: Sequence[int], place: int) -> list[int]:
    """The pictures that bear the mark which a group shares, however rich what lies under it."""
    means = np.stack([every[at] for at in group]).astype(np.float32).mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    scores = np.stack([(each.astype(np.float32) * means).sum(axis=1) for each in every])
    elsewhere = np.median(np.delete(scores, place, axis=1), axis=1)
    return np.flatnonzero(
        (scores[:, place] > TRACE * SHARED[place]) & (elsewhere < scores[:, place] / 2)
    ).tolist()


def _correlations(every: Sequence[np.ndarray], place: int) -> np.ndarray:
    rows = np.stack([each[place] for each in every]).astype(np.float32)
    return rows @ rows.T


def _parts(gray: np.ndarray) -> list[np.ndarray]:
    height, width = gray.shape
    top, left = (height - FRAME) // 2, (width - FRAME) // 2
    return [
        gray[:FRAME, :FRAME],
        gray[:FRAME, -FRAME:],
        gray[-FRAME:, :FRAME],
        gray[-FRAME:, -FRAME:],
        gray[top : top + FRAME, left : left + FRAME],
    ]


def _edges(gray: np.ndarray) -> np.ndarray:
    """Second differences: shading has none, and a mark's letters have many."""
    both = np.zeros((2, *gray.shape), np.float32)
    both[0, :, 1:-1] = gray[:, 2:] - 2 * gray[:, 1:-1] + gray[:, :-2]
    both[1, 1:-1] = gray[2:] - 2 * gray[1:-1] + gray[:-2]
    # One strong edge of the scene must not outweigh the many weak ones of a mark.
    limited = np.clip(both, -LIMIT, LIMIT).ravel()
    if np.abs(limited).mean() < BUSY:
        return np.zeros(both.size, np.float16)
    return (limited / np.linalg.norm(limited)).astype(np.float16)
