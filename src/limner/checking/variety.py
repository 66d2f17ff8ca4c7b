"""What an image is like, and which images are of one kind. By looks alone; no model is asked."""

import numpy as np
from PIL import Image

SAME_KIND = 0.22
"""Distance of features below which two pictures count as one kind."""


def features(rgb: np.ndarray) -> np.ndarray:
    """What a picture is like: colours, layout and directions of its edges, (N,) float32 of length 1.

    Args:
        rgb: (H, W, 3) uint8.
    """
    image = Image.fromarray(rgb)
    small = np.asarray(image.resize((48, 48), Image.Resampling.BOX), np.float32)
    colours, _ = np.histogramdd(small.reshape(-1, 3), bins=(4, 4, 4), range=[(0, 256)] * 3)
    layout = small.reshape(4, 12, 4, 12, 3).mean(axis=(1, 3)) / 255
    gray = small.mean(axis=2)
    gradient_y, gradient_x = np.gradient(gray)
    angle = (np.arctan2(gradient_y, gradient_x) % np.pi * 8 / np.pi).astype(int) % 8
    strength = np.hypot(gradient_y, gradient_x)
    cells = [
        np.bincount(angle[y : y + 24, x : x + 24].ravel(), strength[y : y + 24, x : x + 24].ravel(), 8)
        for y in (0, 24)
        for x in (0, 24)
    ]
    edges = np.concatenate(cells)
    parts = [np.sqrt(colours.ravel()), (layout - layout.mean()).ravel(), np.sqrt(edges)]
    vector = np.concatenate([part / (np.linalg.norm(part) + 1e-6) for part in parts])
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def clusters(points: np.ndarray, max_distance: float = SAME_KIND) -> list[list[int]]:
    """Images of one kind, largest group first: average linkage until none are nearer than ``max_distance``.

    Args:
        points: (N, D), each of length 1. N up to a few thousand.
        max_distance: Distance, 1 minus the cosine.
    """
    members = [[number] for number in range(len(points))]
    means = points.astype(np.float64).copy()
    counts = np.ones(len(points))
    alive = np.ones(len(points), bool)
    # Average linkage of cosines is the inner product of the groups' means.
    distance = 1 - means @ means.T
    np.fill_diagonal(distance, np.inf)
    while alive.sum() > 1:
        first, second = divmod(int(distance.argmin()), len(points))
        if distance[first, second] > max_distance:
            break
        members[first] += members[second]
        total = counts[first] + counts[second]
        means[first] = (means[first] * counts[first] + means[second] * counts[second]) / total
        counts[first] = total
        alive[second] = False
        distance[second] = distance[:, second] = np.inf
        row = np.where(alive, 1 - means @ means[first], np.inf)
        row[first] = np.inf
        distance[first] = distance[:, first] = row
    result = [sorted(group) for group, is_alive in zip(members, alive, strict=True) if is_alive]
    return sorted(result, key=lambda group: (-len(group), group))
