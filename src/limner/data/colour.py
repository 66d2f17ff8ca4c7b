"""Colours as a file's ICC profile means them, told in sRGB. What has no profile is sRGB already."""

from functools import lru_cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

BROKEN_PROFILE: Literal["damaged"] = "damaged"
"""What a profile is called that cannot be used."""
SAME_LEVELS = 2
"""Levels of 255 by which a profile may move a colour and still be sRGB: its makers round differently."""

_MODES = ("RGB", "L", "CMYK")
_SAMPLES = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "LA": "L", "1": "L", "I;16": "L", "I;16B": "L", "I": "L"}


def to_srgb(image: Image.Image) -> Image.Image:
    """An 8-bit image with its colours in sRGB, and without its profile.

    Perceptual intent, as browsers show pictures. A profile that cannot be read, or is of another kind of
    samples than the image, is passed over as viewers do; ``profile_name`` calls it damaged.

    Args:
        image: RGB, RGBA, L, LA or CMYK samples, decoded, at any size; others come back as they are.

    Returns:
        The same image where it has no profile, or one that is sRGB; else RGB, or RGBA where it has alpha.
    """
    profile, mode = _profile(image), image.mode.removesuffix("A")
    transform = _transform(profile, mode) if profile and mode in _MODES else ""
    if isinstance(transform, str):
        return image
    result = ImageCms.applyTransform(image.convert(mode), transform)
    assert result is not None  # only in place is there no result
    if mode != image.mode:
        result.putalpha(image.getchannel("A"))
    result.info.pop("icc_profile", None)  # a writer would put it into the file
    return result


def profile_name(image: Image.Image) -> str:
    """What the profile of an image calls itself; ``BROKEN_PROFILE`` where it cannot be used.

    Empty where there is none, or one that is sRGB by what it does to colours.
    """
    profile, mode = _profile(image), _SAMPLES.get(image.mode, image.mode)
    transform = _transform(profile, mode) if profile and mode in _MODES else ""
    if isinstance(transform, str):
        return transform
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    return " ".join(description.split())[:60] or "no name"


def _profile(image: Image.Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | Literal["", "damaged"]:
    """The way to sRGB, which threads may share; empty where the profile is sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return BROKEN_PROFILE
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        samples = levels[None]
        plain = np.stack([samples] * 3, axis=-1)
    else:
        plain = samples = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    result = ImageCms.applyTransform(Image.fromarray(samples), transform)
    moves = np.abs(np.asarray(result).astype(int) - plain).max()
    return transform if moves > SAME_LEVELS else ""
