"""Which pictures are the same, nearly the same, or of one kind. By looks alone; no model is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

HASH_SIDE = 32
"""Pixels to which a picture is shrunk, whatever its shape, before its coarse frequencies are taken."""
HASH_FREQUENCIES = 8
"""Frequencies per direction: 64 bits (Zauner 2010, the perceptual hash)."""
THUMB = 16
NEAR_BITS = 14
"""Of 64 bits that may differ between two shots of one scene; unrelated pictures differ in about 32."""
NEAR_SHAPE = 0.93
"""Correlation of two thumbnails, gray, without their mean and contrast."""
NEAR_COLOUR = 26.0
"""Root mean square distance of two thumbnails in levels, after their mean brightness is made one."""
SAME_KIND = 0.22
"""Distance of features below which two pictures count as one kind."""


@dataclass(frozen=True, slots=True, eq=False)
class PerceptualHash:
    """What a picture is recognised by."""

    bits: np.ndarray
    """(64,) bool."""
    mirror_bits: np.ndarray
    """Of the mirrored picture."""
    thumb: np.ndarray
    """(16, 16, 3) float32, 0..255."""


def perceptual_hash(rgb: np.ndarray) -> PerceptualHash:
    """The print of a picture (H, W, 3) uint8. A few milliseconds."""
    image = Image.fromarray(rgb)
    gray = np.asarray(image.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX), np.float32)
    thumb = np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX), np.float32)
    return PerceptualHash(_bits(gray), _bits(gray[:, ::-1]), thumb)


def near(first: PerceptualHash, second: PerceptualHash) -> str:
    """``near`` for two shots or copies of one scene, ``mirrored`` if one is flipped, else nothing."""
    for name, bits, thumb in (
        ("near", second.bits, second.thumb),
        ("mirrored", second.mirror_bits, second.thumb[:, ::-1]),
    ):
        if np.count_nonzero(first.bits != bits) <= NEAR_BITS and _same_thumb(first.thumb, thumb):
            return name
    return ""


def groups(prints: Sequence[PerceptualHash]) -> list[list[int]]:
    """Pictures that are nearly the same as the first of their group, in order; groups of one are left out."""
    clusters_so_far: list[list[int]] = []
    heads = np.empty(len(prints), np.uint64)  # the bits of each group's first: one pass compares with all
    for number, fingerprint in enumerate(prints):
        count = len(clusters_so_far)
        distances = [
            np.bitwise_count(heads[:count] ^ _packed(bits))
            for bits in (fingerprint.bits, fingerprint.mirror_bits)
        ]
        candidates = np.flatnonzero(np.minimum(*distances) <= NEAR_BITS).tolist()
        home = next(
            (index for index in candidates if near(prints[clusters_so_far[index][0]], fingerprint)), None
        )
        if home is None:
            heads[count] = _packed(fingerprint.bits)
            clusters_so_far.append([number])
        else:
            clusters_so_far[home].append(number)
    return [group for group in clusters_so_far if len(group) > 1]


def _packed(bits: np.ndarray) -> np.uint64:
    return np.packbits(bits).view(np.uint64)[0]


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


def _same_thumb(left_thumb: np.ndarray, right_thumb: np.ndarray) -> bool:
    first, second = left_thumb - left_thumb.mean(), right_thumb - right_thumb.mean()
    grays = first.mean(axis=2).ravel(), second.mean(axis=2).ravel()
    size = float(np.linalg.norm(grays[0]) * np.linalg.norm(grays[1]))
    if size < 1e-3 or float(grays[0] @ grays[1]) / size < NEAR_SHAPE:
        return False
    return float(np.sqrt(np.square(first - second).mean())) < NEAR_COLOUR


def _bits(gray: np.ndarray) -> np.ndarray:
    """Whether each coarse frequency is above the median."""
    waves = _cosines() @ gray @ _cosines().T
    coarse = waves.ravel()[1:]  # without the mean
    return np.concatenate([[False], coarse > np.median(coarse)])


@cache
def _cosines() -> np.ndarray:
    """(8, 32): the lowest rows of the cosine transform."""
    position = (np.arange(HASH_SIDE) + 0.5) / HASH_SIDE
    return np.cos(np.pi * np.arange(HASH_FREQUENCIES)[:, None] * position[None]).astype(np.float32)
