"""Marks laid over pictures, such as a stock site's name: what several pictures share at one place.

What repeats at fixed pixels while everything else changes is no part of the scenes (Dekel and others 2017,
"On the effectiveness of visible watermarks"). Three pictures that agree in a small window give a first guess
at the mark; their mean, in which scenes cancel, is then looked for in all the others. It must fit in one
place only, as letters do; lines, grids and rows of writing fit wherever they are moved along themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

COMPARE_SIDE = 256
"""Pixels of the longer side at which marks are compared: sites scale previews to one longer side."""
POSITIONS = ("top left", "top right", "bottom left", "bottom right", "middle")
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
NORM_RADIUS = 8
"""Pixels each way over which strength is evened out, so that a rich ground does not outweigh a mark."""
LIMIT = 2.0
"""Times the strength around: more counts as this. One edge of the scene must not outweigh many of a mark."""

AGREE = 0.25
"""Correlation of two pictures in a window, across and down alike, of which three pictures make a guess."""
COMMON = 0.06
"""Mean correlation of all images of a set of at least ``MIN_FOR_MEAN`` that makes a candidate."""
MIN_FOR_MEAN = 8
MAX_CANDIDATES = 4
"""Of a place that are followed up, the strongest first."""
PAIRS = 60
"""Of a window, the closest, that are tried with a third picture."""
ROUNDS = 3
"""Groups that are looked for in one window: the closest may be of pictures with a line in common."""
SPREAD = 7.0, 3.5
"""Columns with upright edges, and rows with level ones, over which a mark's edges spread (as the inverse of
the sum of squared shares). A line or a corner has 1 to 4."""
FITS = 0.22, 2.2
"""Correlation of an image with the mean of the others at its best, within ``MAX_SHIFT`` pixels; and times as
much as anywhere from ``FAR_FROM`` to ``REACH`` pixels away: what three images must reach for there to be one.
Letters reach 3 to 5 times; a box, moved along one of its sides, keeps more than half ..."""
CARRIES = 0.12, 1.25
"""... and what is enough for one more: white letters over white paper are nearly lost. By chance, the best of
2000 places lies within those 25 of a picture in 80, and hardly ever stands out."""
MAX_SHIFT = 2
FAR_FROM, REACH = 5, 24
SIDE = 160
"""Of the transforms by which a mark is moved over a frame: at least ``FRAME + REACH``, so that nothing comes
round from the other side, and quick to transform."""
MAX_SHARED = 0.5
"""Share of all windows in which pictures may agree: beyond, it is the scene that they share."""
MAX_SEARCH = 300
"""Pictures among which the first guess is made; all are then compared with it."""

Group = list[int]


@dataclass(frozen=True, eq=False)
class _Template:
    """What is moved over frames, transformed once for all of them."""

    stamp: np.ndarray
    """(2, SIDE, SIDE // 2 + 1), complex: conjugate spectra of a mark's edges at their place."""
    ground: np.ndarray
    """(SIDE, SIDE // 2 + 1), complex: the same of its box, which is 1 inside."""
    area: int
    """Pixels of the box."""
    length: float
    """Root of the sum of the mark's squares."""


@dataclass(frozen=True, eq=False)
class Watermark:
    """What several pictures share."""

    images: tuple[int, ...]
    position: str
    box: tuple[int, int, int, int]
    """Where it lies, (left, top, right, bottom) in pixels of the frame at its place."""
    stamp: np.ndarray
    """(2, height, width): the sum of the edges in the box of the pictures that it was found in."""

    @cached_property
    def template(self) -> _Template:
        """As it is moved over further pictures."""
        return _template(self.stamp, self.box)


def location(mark: Watermark, width: int, height: int) -> tuple[int, int, int, int]:
    """Where a mark lies on a picture of that size: (left, top, right, bottom) in its pixels."""
    scale = max(width, height) / COMPARE_SIDE
    spans = []
    for way, (side, near) in enumerate(((width, "left"), (height, "top"))):
        room = max(FRAME, round(side / scale)) - FRAME
        start = 0 if near in mark.position else room // 2 if mark.position == "middle" else room
        spans.append([round((start + offset) * scale) for offset in mark.box[way::2]])
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def frames(image: Image.Image) -> np.ndarray:
    """The edges of a whole picture at each place: (5, 2, 128, 128) float16; 0 outside. About 10 ms.

    Args:
        image: Any mode, not cropped: a mark keeps its distance from the picture's own corners.
    """
    scale = COMPARE_SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float32)
    edges = _edges(gray)
    pad = [(0, max(0, FRAME - side)) for side in gray.shape]
    edges = np.pad(edges, [(0, 0), *pad])
    down_shift, right_shift = ((side - FRAME) // 2 for side in edges.shape[1:])
    parts = [
        edges[:, y, x]
        for y in (slice(FRAME), slice(-FRAME, None))
        for x in (slice(FRAME), slice(-FRAME, None))
    ]
    middle = edges[:, down_shift : down_shift + FRAME, right_shift : right_shift + FRAME]
    return np.stack([*parts, middle]).astype(np.float16)


def find_watermarks(
    image_frames: Sequence[np.ndarray], scenes: Sequence[int] | None = None
) -> list[Watermark]:
    """The marks that at least three pictures of different scenes carry.

    About 2 s of one core for 200 pictures.

    Args:
        image_frames: The ``frames`` of each picture.
        scenes: A number for each picture, the same for shots of one scene, which share more than a mark.
    """
    scenes = range(len(image_frames)) if scenes is None else scenes
    if len(set(scenes)) < 3:
        return []
    sample = [scenes.index(scene) for scene in dict.fromkeys(scenes)]
    sample = (
        [sample[index * len(sample) // MAX_SEARCH] for index in range(MAX_SEARCH)]
        if len(sample) > MAX_SEARCH
        else sample
    )
    marks: list[Watermark] = []
    for position, name in enumerate(POSITIONS):
        rows = np.stack([frame[position] for frame in image_frames]).astype(np.float32)
        for group in _candidates(rows[sample], np.array(sample)):
            covered = {image for mark in marks for image in mark.images if mark.position == name}
            if not covered.issuperset(group) and (mark := _followed(rows, image_frames, group, scenes, name)):
                marks.append(mark)
    return _apart(marks)


def _apart(marks: Sequence[Watermark]) -> list[Watermark]:
    """Without what another mark has already said of the same pictures: frames overlap."""
    distinct: list[Watermark] = []
    for mark in sorted(marks, key=lambda mark: -len(mark.images)):
        if not any(set(mark.images) <= set(other.images) for other in distinct):
            distinct.append(mark)
    return distinct


def _candidates(rows: np.ndarray, numbers: np.ndarray) -> list[Group]:
    """Groups of at least three pictures that agree in some window, the most certain first."""
    candidates: list[tuple[float, Group]] = []
    for window in WINDOWS:
        similarity = _alike(rows[(..., *window)])
        count = len(similarity)
        common = float(similarity.sum()) / (count * (count - 1))
        if count >= MIN_FOR_MEAN and common > COMMON and _spread(rows[(..., *window)]):
            candidates.append((common * count, list(range(count))))
        for group in _groups(similarity):
            if _spread(rows[group][(..., *window)]):
                candidates.append((float(similarity[np.ix_(group, group)].sum()) / len(group), group))
    candidates.sort(key=lambda candidate: -candidate[0])
    best: list[Group] = []
    for _, group in candidates:
        if len(best) < MAX_CANDIDATES and not any(set(group) <= set(other) for other in best):
            best.append(group)
    return [numbers[group].tolist() for group in best]


def _groups(similarity: np.ndarray) -> Iterator[Group]:
    """Groups of at least three pictures that agree each with each, one after the other."""
    remaining = similarity.copy()
    for _ in range(ROUNDS):
        group = _closest(remaining)
        if not group:
            return
        for index in np.argsort(-remaining[group].min(axis=0)).tolist():
            if all(remaining[index, member] > AGREE for member in group):
                group.append(index)
        yield group
        remaining[group] = 0
        remaining[:, group] = 0


def _closest(similarity: np.ndarray) -> Group:
    """The three pictures of which even the two that agree least agree most; none if less than ``AGREE``."""
    best, triple = AGREE, []
    pairs = np.argwhere(np.triu(similarity) > AGREE)
    order = np.argsort(-similarity[pairs[:, 0], pairs[:, 1]])[:PAIRS]
    for first, second in pairs[order].tolist():
        pair_min = np.minimum(similarity[first], similarity[second])
        third = int(pair_min.argmax())
        if (weakest := min(similarity[first, second], pair_min[third])) > best:
            best, triple = weakest, [first, second, third]
    return triple


def _followed(
    rows: np.ndarray, image_frames: Sequence[np.ndarray], group: Group, scenes: Sequence[int], name: str
) -> Watermark | None:
    """What becomes of a guess: the pictures that carry its mean, and its extent; nothing if it is no mark."""
    box, members = None, group
    for _ in range(3):
        if len({scenes[index] for index in members}) < 3 or not (windows := _where(rows[members])):
            return None
        box = _around(windows)
        fits = _fitting(rows, box, members, FITS)
        if fits == members:
            break
        members = fits
    if (
        box is None
        or len({scenes[index] for index in members}) < 3
        or _share(image_frames, members) > MAX_SHARED
    ):
        return None
    stamp = rows[members][:, :, box[1] : box[3], box[0] : box[2]].sum(axis=0)
    return Watermark(tuple(sorted({*members, *_fitting(rows, box, members, CARRIES)})), name, box, stamp)


def carries(mark: Watermark, image_frames: np.ndarray) -> bool:
    """Whether one more picture carries a mark that was found in others; by its ``frames``."""
    whole = image_frames[POSITIONS.index(mark.position)].astype(np.float32)
    best, far = _fit(whole, mark.template)
    return best > CARRIES[0] and best > CARRIES[1] * far


def _where(rows: np.ndarray) -> list[tuple[slice, slice]]:
    """The windows in which pictures agree on the whole."""
    threshold = (AGREE if len(rows) < MIN_FOR_MEAN else COMMON) * len(rows) * (len(rows) - 1)
    return [window for window in WINDOWS if _alike(rows[(..., *window)]).sum() > threshold]


def _share(image_frames: Sequence[np.ndarray], members: Group) -> float:
    """Of the windows of all places, the share in which the pictures agree."""
    counts = [
        len(_where(np.stack([image_frames[index][position] for index in members]).astype(np.float32)))
        for position in range(5)
    ]
    return sum(counts) / (len(counts) * len(WINDOWS))


def _fitting(
    rows: np.ndarray, box: tuple[int, int, int, int], members: Group, thresholds: tuple[float, float]
) -> Group:
    """The pictures that the mean of the members fits at its place, and nowhere beside it."""
    parts = rows[:, :, box[1] : box[3], box[0] : box[2]]
    total = parts[members].sum(axis=0)
    whole_template = _template(total, box)
    matches: Group = []
    for index, whole in enumerate(rows):
        template = _template(total - parts[index], box) if index in members else whole_template
        best, far = _fit(whole, template)
        if best > thresholds[0] and best > thresholds[1] * far:
            matches.append(index)
    return matches


def _template(mean: np.ndarray, box: tuple[int, int, int, int]) -> _Template:
    """(2, height, width) of a box in a frame, transformed."""
    stamp, flat = np.zeros((2, SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    stamp[:, box[1] : box[3], box[0] : box[2]] = mean
    flat[box[1] : box[3], box[0] : box[2]] = 1
    area = (box[3] - box[1]) * (box[2] - box[0])
    return _Template(np.fft.rfft2(stamp).conj(), np.fft.rfft2(flat).conj(), area, float(np.linalg.norm(mean)))


def _fit(whole: np.ndarray, template: _Template) -> tuple[float, float]:
    """Correlation of a frame with a mark: the best at its place, and the best beside it."""
    size = (SIDE, SIDE)
    squares = np.square(whole).sum(axis=0)
    hits = np.fft.irfft2((np.fft.rfft2(whole, size) * template.stamp).sum(axis=0), size)
    power = np.fft.irfft2(np.fft.rfft2(squares, size) * template.ground, size)
    floor = 0.1 * float(squares.sum()) * template.area / FRAME**2  # an empty ground fits anything
    scores = hits / (np.sqrt(np.maximum(power, floor)) * template.length + 1e-6)
    near = slice(SIDE // 2 - REACH, SIDE // 2 + REACH + 1)
    middle = np.fft.fftshift(scores)[near, near]
    offsets = np.abs(np.arange(-REACH, REACH + 1))
    far = np.maximum(offsets[:, None], offsets[None])
    return float(middle[far <= MAX_SHIFT].max()), float(middle[far >= FAR_FROM].max())


def _around(windows: Sequence[tuple[slice, slice]]) -> tuple[int, int, int, int]:
    tops, lefts = [item.start for item, _ in windows], [item.start for _, item in windows]
    return min(lefts), min(tops), max(lefts) + WINDOW[1], max(tops) + WINDOW[0]


def _alike(parts: np.ndarray) -> np.ndarray:
    """(N, N): correlation of pictures, the smaller of across and down; 0 with themselves and where empty."""
    by_axis = [_correlations(parts[:, axis].reshape(len(parts), -1)) for axis in (0, 1)]
    return np.minimum(*by_axis)


def _correlations(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1)
    nonzero, units = lengths > 4, rows / np.maximum(lengths, 1e-6)[:, None]
    result = units @ units.T
    result *= nonzero[:, None] & nonzero[None]
    np.fill_diagonal(result, 0)
    return result


def _spread(parts: np.ndarray) -> bool:
    """Whether the edges that pictures share spread over a window as letters' do."""
    common = np.square(parts.sum(axis=0)) - np.square(parts).sum(axis=0)  # of all pairs: noise cancels
    columns, rows = (np.maximum(common[way].sum(axis=way), 0) for way in (0, 1))
    wide, high = (
        float(profile.sum() ** 2 / (np.square(profile).sum() + 1e-9)) for profile in (columns, rows)
    )
    return (wide > SPREAD[0] and high > SPREAD[1]) or (high > SPREAD[0] and wide > SPREAD[1])


def _edges(gray: np.ndarray) -> np.ndarray:
    """(2, H, W) second differences, across and down, relative to those around: shading has none."""
    second_differences = np.zeros((2, *gray.shape), np.float32)
    second_differences[0, :, 1:-1] = gray[:, 2:] - 2 * gray[:, 1:-1] + gray[:, :-2]
    second_differences[1, 1:-1] = gray[2:] - 2 * gray[1:-1] + gray[:-2]
    norm = np.sqrt(_mean_around(np.square(second_differences).sum(axis=0)) / 2 + FLOOR**2)
    return np.clip(second_differences / norm, -LIMIT, LIMIT)


def _mean_around(values: np.ndarray) -> np.ndarray:
    """The mean of the square around each pixel."""
    side = 2 * NORM_RADIUS + 1
    total = (
        np.pad(values.astype(np.float64), ((NORM_RADIUS + 1, NORM_RADIUS),) * 2, mode="edge")
        .cumsum(0)
        .cumsum(1)
    )
    inner = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.maximum(inner, 0) / side**2
