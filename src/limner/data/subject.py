"""Crops that follow the subject: faces first, then what stands out. Needs the extra ``crop``.

Faces: OpenCV's cascades (Viola and Jones 2001), which its 4.x wheels bring along; upright only.
What stands out: smartcrop, which scores skin, detail and saturation (Wagner's smartcrop.js).
"""

import importlib
import importlib.util
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from limner.data.folder import Example
from limner.data.images import decode
from limner.data.views import Scale, centre, largest, size_finder
from limner.errors import BadRecipe

Box = tuple[int, int, int, int]

SLACK = 0.03
"""Share of a side below which a crop takes so little that the middle is as good as any."""
MAX_CROP_LOSS = 0.25
"""Share of an image that a crop may take unsaid."""
SIDE = 384
"""Pixels of the longer side at which subjects are looked for."""
FACE_AT_LEAST = 1 / 12
"""Of the shorter side: smaller faces are not what the image is about, and are often none."""
STEPS = {"frontal": (1.1, 5), "profile": (1.2, 8)}
"""Of each cascade: factor between two sizes that are tried, and how many neighbouring finds make a face."""
MARGIN = 0.25
"""Of a face on every side: the cascades find the features, a portrait shows the head."""
REMEDY = "Run: pip install 'limner[crop]'"

_local = threading.local()


class Crop(NamedTuple):
    """A crop of an example, and why it lies where it does."""

    crop: Box
    reason: str
    """``given`` by a person, ``faces``, ``saliency``, or ``centre``."""
    faces: tuple[Box, ...] = ()
    """With the margin, in upright pixels; looked for only where the crop takes something away."""


@dataclass(frozen=True)
class Subject:
    """What was found in a picture."""

    faces: tuple[Box, ...]
    fraction: float
    """Where along the free axis what stands out wants the crop, 0 (left or top) to 1."""


@cache
def installed() -> bool:
    """Whether faces and saliency can be looked for: OpenCV 4 and smartcrop are there."""
    return all(map(importlib.util.find_spec, ("cv2", "smartcrop"))) and _cascades() is not None


def follows(mode: str) -> bool:
    """Whether crops follow the subject, for a value of ``data.crop``.

    Raises:
        BadRecipe: They shall, and the extra is not installed.
    """
    if mode == "subject" and not installed():
        raise BadRecipe(
            'data.crop is "subject", which needs opencv-python-headless 4.x and smartcrop. '
            f'{REMEDY}, or set data.crop = "centre".'
        )
    return mode != "centre" and installed()


def slack(example: Example, size: tuple[int, int]) -> float:
    """Share of the longer-than-needed side that the crop for a bucket takes away, 0 to 1."""
    left, top, right, bottom = example.extent
    crop_width, crop_height = largest(right - left, bottom - top, size)
    return 1 - crop_width * crop_height / ((right - left) * (bottom - top))


def crops(examples: Iterable[Example], scales: Sequence[Scale]) -> dict[tuple[Example, tuple[int, int]], Box]:
    """The crops that follow the subject, of the examples that lose enough for it to matter.

    About 80 ms of one core for an image of 24 megapixels that is looked at; others cost nothing.

    Args:
        examples: What ``read_folder`` found.
        scales: Resolutions that they are seen at, from the smallest to the largest.

    Raises:
        BadImage: A file cannot be read any more.
    """
    sizes_of_example = size_finder(scales)
    pairs = [(example, size) for example in examples for size in sizes_of_example(example)]
    selection = [(example, size) for example, size in pairs if slack(example, size) >= SLACK]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        cuts = pool.map(lambda pair: choose_crop(*pair), selection)
        return {pair: result.crop for pair, result in zip(selection, cuts, strict=True)}


def choose_crop(example: Example, size: tuple[int, int], *, follow: bool = True) -> Crop:
    """The crop of one example for a bucket, and why it lies there.

    With faces, the crop moves from the middle as little as it must to hold them all, heads included; where
    they do not fit, it holds as much of the largest as it can, and the nearest of the others.

    Args:
        example: The image.
        size: Its bucket, (width, height).
        follow: False leaves the crop in the middle.

    Raises:
        BadImage: The file cannot be read any more.
    """
    middle = centre(example, size)
    if not follow or slack(example, size) < SLACK:
        return Crop(middle, "given" if example.region else "centre")
    subject = _look(example.path, example.extent, (middle[2] - middle[0], middle[3] - middle[1]))
    faces = subject.faces
    if faces:
        return Crop(_holding(example.extent, middle, faces), "faces", faces)
    return Crop(_placed(example.extent, middle, subject.fraction), "saliency")


def _placed(extent: Box, crop: Box, fraction: float) -> Box:
    crop_width, crop_height = crop[2] - crop[0], crop[3] - crop[1]
    left = extent[0] + round((extent[2] - extent[0] - crop_width) * fraction)
    top = extent[1] + round((extent[3] - extent[1] - crop_height) * fraction)
    return left, top, left + crop_width, top + crop_height


def _holding(extent: Box, crop: Box, faces: Sequence[Box]) -> Box:
    """The crop moved along its free axis until it holds the faces, the largest first."""
    axis = 0 if crop[2] - crop[0] < extent[2] - extent[0] else 1
    length = crop[axis + 2] - crop[axis]
    low, high = extent[axis], extent[axis + 2] - length
    for face in sorted(faces, key=lambda face: face[0] - face[2]):
        lowest, highest = face[axis + 2] - length, face[axis]
        if lowest > highest:  # longer than the crop: its middle
            lowest = highest = (lowest + highest) // 2
        if highest < low:  # out of reach of the larger ones: as near as they let it
            high = low
        elif lowest > high:
            low = high
        else:
            low, high = max(low, lowest), min(high, highest)
    shifted_crop = [*crop]
    shifted_crop[axis] = min(max(crop[axis], low), high)
    shifted_crop[axis + 2] = shifted_crop[axis] + length
    return shifted_crop[0], shifted_crop[1], shifted_crop[2], shifted_crop[3]


def _look(path: Path, extent: Box, crop: tuple[int, int]) -> Subject:
    """Faces, in upright pixels with their margin, and where saliency wants a crop of ``crop`` pixels."""
    width, height = extent[2] - extent[0], extent[3] - extent[1]
    scale = min(1.0, SIDE / max(width, height))
    image, full = decode(path, (max(1, int(extent[2] * scale)), max(1, int(extent[3] * scale))))
    scale_x, scale_y = image.width / full[0], image.height / full[1]
    small = image.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))),
        Image.Resampling.LANCZOS,
        box=(extent[0] * scale_x, extent[1] * scale_y, extent[2] * scale_x, extent[3] * scale_y),
        reducing_gap=3.0,
    )
    faces = found_faces(small)
    if faces:
        return Subject(tuple(_in_source(face, extent, width / small.width) for face in faces), 0.5)
    return Subject((), _salient(small, (max(1, round(crop[0] * scale)), max(1, round(crop[1] * scale)))))


def _in_source(face: Box, extent: Box, scale: float) -> Box:
    left, top, right, bottom = (round(value * scale) for value in face)
    wide, high = round((right - left) * MARGIN), round((bottom - top) * MARGIN)
    return (
        max(extent[0], extent[0] + left - wide),
        max(extent[1], extent[1] + top - high),
        min(extent[2], extent[0] + right + wide),
        min(extent[3], extent[1] + bottom + high),
    )


def found_faces(image: Image.Image) -> tuple[Box, ...]:
    """Upright faces in an RGB picture of about ``SIDE`` pixels, (left, top, right, bottom), largest first.

    Profiles are looked for only where no face looks at the camera: their cascade errs more often.
    """
    cascades = _local.__dict__.get("cascades") or _local.__dict__.setdefault("cascades", _cascades())
    gray = np.asarray(image.convert("L"))
    min_size = max(20, round(min(image.size) * FACE_AT_LEAST))
    frontal, profile = cascades
    boxes = _detected(frontal, gray, min_size, "frontal") or _detected(profile, gray, min_size, "profile")
    if not boxes:
        mirror_boxes = _detected(profile, np.ascontiguousarray(gray[:, ::-1]), min_size, "profile")
        boxes = [(image.width - x - wide, y, wide, high) for x, y, wide, high in mirror_boxes]
    corners = [(x, y, x + wide, y + high) for x, y, wide, high in boxes]
    return tuple(sorted(corners, key=lambda box: (box[0] - box[2], box)))


def _detected(cascade: Any, gray: np.ndarray, min_size: int, kind: str) -> list[tuple[int, int, int, int]]:
    factor, votes = STEPS[kind]
    boxes = cascade.detectMultiScale(
        gray, scaleFactor=factor, minNeighbors=votes, minSize=(min_size, min_size)
    )
    return [(int(x), int(y), int(wide), int(high)) for x, y, wide, high in boxes]


def _cascades() -> tuple[Any, Any] | None:
    """The two cascades, loaded anew: one is not for several threads. None where OpenCV has none (5.x)."""
    cv2: Any = importlib.import_module("cv2")
    try:
        load, folder = cv2.CascadeClassifier, Path(cv2.data.haarcascades)
    except AttributeError:
        return None
    files = (folder / "haarcascade_frontalface_alt2.xml", folder / "haarcascade_profileface.xml")
    if not all(file.is_file() for file in files):
        return None
    cv2.setNumThreads(1)  # its own threads would group what they find in an order that varies
    return load(str(files[0])), load(str(files[1]))


def _salient(image: Image.Image, crop: tuple[int, int]) -> float:
    """Where along the free axis smartcrop wants the largest crop of that shape, 0 to 1."""
    smartcrop: Any = importlib.import_module("smartcrop")
    wide, high = min(crop[0], image.width), min(crop[1], image.height)
    best = smartcrop.SmartCrop(score_down_sample=4).analyse(image, wide, high, min_scale=1, step=4)[
        "top_crop"
    ]
    room = image.width - wide, image.height - high
    axis = 0 if room[0] >= room[1] else 1
    return best["xy"[axis]] / room[axis] if room[axis] else 0.5
