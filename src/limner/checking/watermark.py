"""Marks laid over pictures, such as a stock site's name: what several pictures share at one place.

What repeats at fixed pixels while everything else changes is no part of the scenes (Dekel and others 2017,
"On the effectiveness of visible watermarks"). Three pictures that agree in a small window give a first guess
at the mark; their mean, in which scenes cancel, is then looked for in all the others. It must fit in one
place only, as letters do; lines, grids and rows of writing fit wherever they are moved along themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

CANVAS = 256
"""Pixels of the longer side at which marks are compared: sites scale previews to one longer side."""
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle")
FRAME = 128
"""Pixels of the square that is compared at each place."""
WINDOW = 24, 40
"""Rows and columns of a window, which moves by a third of its height and by 16 columns."""
STEPS = 8, 16
WINDOWS = tuple(
    (slice(top, top + WINDOW[0]), slice(left, left + WINDOW[1]))
    for top in range(0, FRAME - WINDOW[0] + 1, STEPS[0])
    for left in range(0, FRAME - WINDOW[1] + 1, STEPS[1])
)
FLOOR = 1.5
"""Gray levels of second difference that are added to a place's own: below is noise."""
AROUND = 8
"""Pixels each way over which strength is evened out, so that a rich ground does not outweigh a mark."""
LIMIT = 2.0
"""Times the strength around: more counts as this. One edge of the scene must not outweigh many of a mark."""

AGREE = 0.25
"""Correlation of two pictures in a window, across and down alike, of which three pictures make a guess."""
COMMON = 0.06
"""Mean correlation of all pictures of a set of at least ``MANY`` that makes a guess: a faint mark on all."""
MANY = 8
GUESSES = 4
"""Of a place that are followed up, the strongest first."""
PAIRS = 60
"""Of a window, the closest, that are tried with a third picture."""
ROUNDS = 3
"""Groups that are looked for in one window: the closest may be of pictures with a line in common."""
SPREAD = 7.0, 3.5
"""Columns with upright edges, and rows with level ones, over which a mark's edges spread (as the inverse of
the sum of squared shares). A line or a corner has 1 to 4."""
FITS = 0.22, 2.2
"""Correlation of a picture with the mean of the others at its best, within ``SLIP`` pixels; and times as much
as anywhere from ``BESIDE`` to ``REACH`` pixels away: what three pictures must reach for there to be a mark.
Letters reach 3 to 5 times; a box, moved along one of its sides, keeps more than half ..."""
CARRIES = 0.12, 1.25
"""... and what is enough for one more: white letters over white paper are nearly lost. By chance, the best of
2000 places lies within those 25 of a picture in 80, and hardly ever stands out."""
SLIP = 2
BESIDE, REACH = 5, 24
ALIKE = 0.5
"""Share of all windows in which pictures may agree: beyond, it is the scene that they share."""
SEARCHED = 300
"""Pictures among which the first guess is made; all are then compared with it."""

Group = list[int]


@dataclass(frozen=True, eq=False)
class Mark:
    """What several pictures share."""

    images: tuple[int, ...]
    place: str
    box: tuple[int, int, int, int]
    """Where it lies, (left, top, right, bottom) in pixels of the frame at its place."""


def lies(mark: Mark, width: int, height: int) -> tuple[int, int, int, int]:
    """Where a mark lies on a picture of that size: (left, top, right, bottom) in its pixels."""
    scale = max(width, height) / CANVAS
    found = []
    for way, (side, near) in enumerate(((width, "left"), (height, "top"))):
        room = max(FRAME, round(side / scale)) - FRAME
        start = 0 if near in mark.place else room // 2 if mark.place == "middle" else room
        found.append([round((start + at) * scale) for at in mark.box[way::2]])
    return found[0][0], found[1][0], found[0][1], found[1][1]


def frames(image: Image.Image) -> np.ndarray:
    """The edges of a whole picture at each place: (5, 2, 128, 128) float16; 0 outside. About 10 ms.

    Args:
        image: Any mode, not cropped: a mark keeps its distance from the picture's own corners.
    """
    scale = CANVAS / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float32)
    edges = _edges(gray)
    pad = [(0, max(0, FRAME - side)) for side in gray.shape]
    edges = np.pad(edges, [(0, 0), *pad])
    down, across = ((side - FRAME) // 2 for side in edges.shape[1:])
    parts = [
        edges[:, y, x]
        for y in (slice(FRAME), slice(-FRAME, None))
        for x in (slice(FRAME), slice(-FRAME, None))
    ]
    middle = edges[:, down : down + FRAME, across : across + FRAME]
    return np.stack([*parts, middle]).astype(np.float16)


def shared(every: Sequence[np.ndarray], scenes: Sequence[int] | None = None) -> list[Mark]:
    """The marks that at least three pictures of different scenes carry.

    About 2 s of one core for 200 pictures.

    Args:
        every: The ``frames`` of each picture.
        scenes: A number for each picture, the same for shots of one scene, which share more than a mark.
    """
    scenes = range(len(every)) if scenes is None else scenes
    if len(set(scenes)) < 3:
        return []
    few = [scenes.index(scene) for scene in dict.fromkeys(scenes)]
    few = [few[at * len(few) // SEARCHED] for at in range(SEARCHED)] if len(few) > SEARCHED else few
    found: list[Mark] = []
    for place, name in enumerate(PLACES):
        rows = np.stack([each[place] for each in every]).astype(np.float32)
        for group in _guesses(rows[few], np.array(few)):
            known = {image for mark in found for image in mark.images if mark.place == name}
            if not known.issuperset(group) and (mark := _followed(rows, every, group, scenes, name)):
                found.append(mark)
    return _apart(found)


def _apart(found: Sequence[Mark]) -> list[Mark]:
    """Without what another mark has already said of the same pictures: frames overlap."""
    kept: list[Mark] = []
    for mark in sorted(found, key=lambda each: -len(each.images)):
        if not any(set(mark.images) <= set(other.images) for other in kept):
            kept.append(mark)
    return kept


def _guesses(rows: np.ndarray, numbers: np.ndarray) -> list[Group]:
    """Groups of at least three pictures that agree in some window, the most certain first."""
    found: list[tuple[float, Group]] = []
    for window in WINDOWS:
        alike = _alike(rows[(..., *window)])
        count = len(alike)
        common = float(alike.sum()) / (count * (count - 1))
        if count >= MANY and common > COMMON and _spread(rows[(..., *window)]):
            found.append((common * count, list(range(count))))
        for group in _groups(alike):
            if _spread(rows[group][(..., *window)]):
                found.append((float(alike[np.ix_(group, group)].sum()) / len(group), group))
    found.sort(key=lambda each: -each[0])
    kept: list[Group] = []
    for _, group in found:
        if len(kept) < GUESSES and not any(set(group) <= set(other) for other in kept):
            kept.append(group)
    return [numbers[group].tolist() for group in kept]


def _groups(alike: np.ndarray) -> Iterator[Group]:
    """Groups of at least three pictures that agree each with each, one after the other."""
    left = alike.copy()
    for _ in range(ROUNDS):
        group = _closest(left)
        if not group:
            return
        for at in np.argsort(-left[group].min(axis=0)).tolist():
            if all(left[at, member] > AGREE for member in group):
                group.append(at)
        yield group
        left[group] = 0
        left[:, group] = 0


def _closest(alike: np.ndarray) -> Group:
    """The three pictures of which even the two that agree least agree most; none if less than ``AGREE``."""
    best, found = AGREE, []
    pairs = np.argwhere(np.triu(alike) > AGREE)
    order = np.argsort(-alike[pairs[:, 0], pairs[:, 1]])[:PAIRS]
    for one, other in pairs[order].tolist():
        both = np.minimum(alike[one], alike[other])
        third = int(both.argmax())
        if (least := min(alike[one, other], both[third])) > best:
            best, found = least, [one, other, third]
    return found


def _followed(
    rows: np.ndarray, every: Sequence[np.ndarray], group: Group, scenes: Sequence[int], name: str
) -> Mark | None:
    """What becomes of a guess: the pictures that carry its mean, and its extent; nothing if it is no mark."""
    box, members = None, group
    for _ in range(3):
        if len({scenes[at] for at in members}) < 3 or not (windows := _where(rows[members])):
            return None
        box = _around(windows)
        fits = _fitting(rows, box, members, FITS)
        if fits == members:
            break
        members = fits
    if box is None or len({scenes[at] for at in members}) < 3 or _share(every, members) > ALIKE:
        return None
    return Mark(tuple(sorted({*members, *_fitting(rows, box, members, CARRIES)})), name, box)


def _where(rows: np.ndarray) -> list[tuple[slice, slice]]:
    """The windows in which pictures agree on the whole."""
    least = (AGREE if len(rows) < MANY else COMMON) * len(rows) * (len(rows) - 1)
    return [window for window in WINDOWS if _alike(rows[(..., *window)]).sum() > least]


def _share(every: Sequence[np.ndarray], members: Group) -> float:
    """Of the windows of all places, the share in which the pictures agree."""
    counts = [
        len(_where(np.stack([every[at][place] for at in members]).astype(np.float32))) for place in range(5)
    ]
    return sum(counts) / (len(counts) * len(WINDOWS))


def _fitting(
    rows: np.ndarray, box: tuple[int, int, int, int], members: Group, wanted: tuple[float, float]
) -> Group:
    """The pictures that the mean of the members fits at its place, and nowhere beside it."""
    parts = rows[:, :, box[1] : box[3], box[0] : box[2]]
    total = parts[members].sum(axis=0)
    found: Group = []
    for at, whole in enumerate(rows):
        best, beside = _fit(whole, total - parts[at] if at in members else total, box)
        if best > wanted[0] and best > wanted[1] * beside:
            found.append(at)
    return found


def _fit(whole: np.ndarray, mean: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Correlation of a frame with a mark: the best at its place, and the best beside it."""
    size = 2 * FRAME
    stamp, flat = np.zeros((2, size, size), np.float32), np.zeros((size, size), np.float32)
    stamp[:, box[1] : box[3], box[0] : box[2]] = mean
    flat[box[1] : box[3], box[0] : box[2]] = 1
    spectra = np.fft.rfft2(whole, (size, size))
    hits = np.fft.irfft2((spectra * np.fft.rfft2(stamp).conj()).sum(axis=0), (size, size))
    power = np.fft.irfft2(
        np.fft.rfft2(np.square(whole).sum(axis=0), (size, size)) * np.fft.rfft2(flat).conj()
    )
    least = 0.1 * float(np.square(whole).sum()) * flat.sum() / FRAME**2  # an empty ground fits anything
    scores = hits / (np.sqrt(np.maximum(power, least)) * np.linalg.norm(mean) + 1e-6)
    middle = np.fft.fftshift(scores)[FRAME - REACH : FRAME + REACH + 1, FRAME - REACH : FRAME + REACH + 1]
    away = np.abs(np.arange(-REACH, REACH + 1))
    far = np.maximum(away[:, None], away[None])
    return float(middle[far <= SLIP].max()), float(middle[far >= BESIDE].max())


def _around(windows: Sequence[tuple[slice, slice]]) -> tuple[int, int, int, int]:
    tops, lefts = [each.start for each, _ in windows], [each.start for _, each in windows]
    return min(lefts), min(tops), max(lefts) + WINDOW[1], max(tops) + WINDOW[0]


def _alike(parts: np.ndarray) -> np.ndarray:
    """(N, N): correlation of pictures, the smaller of across and down; 0 with themselves and where empty."""
    both = [_correlations(parts[:, way].reshape(len(parts), -1)) for way in (0, 1)]
    return np.minimum(*both)


def _correlations(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1)
    there, units = lengths > 4, rows / np.maximum(lengths, 1e-6)[:, None]
    found = units @ units.T
    found *= there[:, None] & there[None]
    np.fill_diagonal(found, 0)
    return found


def _spread(parts: np.ndarray) -> bool:
    """Whether the edges that pictures share spread over a window as letters' do."""
    common = np.square(parts.sum(axis=0)) - np.square(parts).sum(axis=0)  # of all pairs: noise cancels
    columns, rows = (np.maximum(common[way].sum(axis=way), 0) for way in (0, 1))
    wide, high = (float(each.sum() ** 2 / (np.square(each).sum() + 1e-9)) for each in (columns, rows))
    return (wide > SPREAD[0] and high > SPREAD[1]) or (high > SPREAD[0] and wide > SPREAD[1])


def _edges(gray: np.ndarray) -> np.ndarray:
    """(2, H, W) second differences, across and down, relative to those around: shading has none."""
    both = np.zeros((2, *gray.shape), np.float32)
    both[0, :, 1:-1] = gray[:, 2:] - 2 * gray[:, 1:-1] + gray[:, :-2]
    both[1, 1:-1] = gray[2:] - 2 * gray[1:-1] + gray[:-2]
    around = np.sqrt(_mean_around(np.square(both).sum(axis=0)) / 2 + FLOOR**2)
    return np.clip(both / around, -LIMIT, LIMIT)


def _mean_around(values: np.ndarray) -> np.ndarray:
    """The mean of the square around each pixel."""
    side = 2 * AROUND + 1
    total = np.pad(values.astype(np.float64), ((AROUND + 1, AROUND),) * 2, mode="edge").cumsum(0).cumsum(1)
    inner = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.maximum(inner, 0) / side**2
