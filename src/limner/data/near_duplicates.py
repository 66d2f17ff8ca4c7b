"""Which images are nearly the same, and are never divided between training and validation.

By looks alone; no model is asked.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from limner.data.file_index import FileIndex
from limner.data.folder import Example
from limner.data.images import read_image

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
PRINT_SIDE = 128
"""Pixels, at least, from which it is told whether images in files are nearly the same."""


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


class NearSearch:
    """Finds, among many images, those that are nearly the same as one. A millisecond for 20,000."""

    def __init__(self, looks: Sequence[tuple[int, int]], hash_of: Callable[[int], PerceptualHash]) -> None:
        """Hold the bits of all; the rest of a hash is asked for where bits are alike.

        Args:
            looks: The bits of each image, and of its mirror image.
            hash_of: Index of an image -> its whole hash.
        """
        self._bits, self._mirror_bits = np.array(looks, np.uint64).reshape(-1, 2).T
        self._hash_of = cache(hash_of)

    def neighbours(self, index: int) -> list[int]:
        """The other images, by index, that are nearly the same as one of them, mirrored or not."""
        looks = self._bits[index], self._mirror_bits[index]
        distances = [np.bitwise_count(self._bits ^ bits) for bits in looks]
        candidates = np.flatnonzero(np.minimum(*distances) <= NEAR_BITS).tolist()
        others = [other for other in candidates if other != index]
        return [other for other in others if _alike(self._hash_of(index), self._hash_of(other))]

    def cluster(self, index: int) -> set[int]:
        """An image, its neighbours, theirs, and so on: what must not be divided."""
        members, queue = {index}, [index]
        while queue:
            fresh = set(self.neighbours(queue.pop())) - members
            members |= fresh
            queue += sorted(fresh)
        return members


def _alike(first: PerceptualHash, second: PerceptualHash) -> bool:
    """``near``, whichever of the two is mirrored: the bits of both need not differ in equally many."""
    return bool(near(first, second) or near(second, first))


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


def hold_out(examples: Sequence[Example], count: int, index: FileIndex | None = None) -> set[str]:
    """The images kept from the training, by hash: no other that is trained is the same or nearly the same.

    The first in the order of the hashes, a choice that renaming files does not change, that are nearly the
    same as no other. Where too few are, whole groups of images that are: they may be more than ``count``.
    At least one image is left to train on, so that they may also be fewer, or none.

    Args:
        examples: All of them.
        count: How many different ones are wanted.
        index: Of their folder, which may know what they look like.

    Raises:
        BadImage: A file cannot be read any more.
    """
    paths = {example.sha256: example.path for example in reversed(examples)}
    contents = sorted(paths)
    search = _search([paths[content] for content in contents], index)
    selection: set[int] = set()
    clusters: list[set[int]] = []
    for number in range(len(contents)):
        if len(selection) == count:
            break
        if search.neighbours(number):
            clusters += [] if any(number in cluster for cluster in clusters) else [search.cluster(number)]
        else:
            selection.add(number)
    for cluster in sorted(clusters, key=len):
        if len(selection) < count and len(selection) + len(cluster) < len(contents):
            selection |= cluster
    return {contents[number] for number in selection}


def near_training(
    training: Sequence[Example], validation: Sequence[Example], index: FileIndex | None = None
) -> list[tuple[Example, Example]]:
    """Validation images that are nearly the same as one that is trained on, and that one.

    Args:
        training: Images of one folder.
        validation: Those of another.
        index: Of the first folder, which may know what they look like.

    Raises:
        BadImage: A file cannot be read any more.
    """
    search = _search([example.path for example in (*training, *validation)], index)
    pairs: list[tuple[Example, Example]] = []
    for number, example in enumerate(validation, len(training)):
        twin = next((other for other in search.neighbours(number) if other < len(training)), None)
        pairs += [] if twin is None else [(example, training[twin])]
    return pairs


def _search(paths: Sequence[Path], index: FileIndex | None) -> NearSearch:
    """A search among images; what they look like is computed once, and kept in the index."""
    looks = [index.looks(path) if index else None for path in paths]
    unknown = [number for number, bits in enumerate(looks) if bits is None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(lambda number: _looks_of(paths[number]), unknown)
        for number, bits in zip(unknown, hashes, strict=True):
            looks[number] = bits
            if index:
                index.add_looks(paths[number], bits)
    if index:
        index.save()
    return NearSearch([bits or (0, 0) for bits in looks], lambda number: _hash_of(paths[number]))


def _looks_of(path: Path) -> tuple[int, int]:
    image = _hash_of(path)
    return int(_packed(image.bits)), int(_packed(image.mirror_bits))


def _hash_of(path: Path) -> PerceptualHash:
    return perceptual_hash(np.asarray(read_image(path, at_least=(PRINT_SIDE, PRINT_SIDE))))


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
