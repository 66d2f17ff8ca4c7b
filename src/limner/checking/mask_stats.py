"""What is measured of a mask, at the size of training, and the picture that shows it over its image."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from limner.data.masks import tinted
from limner.data.views import View, mask_pixels

BORDER = 1 / 16
"""Of the sides: how wide the rim is that a subject seldom fills."""
JPEG_QUALITY = 84


@dataclass(frozen=True, eq=False)
class MaskStats:
    """A mask as training would see it, cropped with its image. Shares from 0, black, to 1, white."""

    share: float
    """Of the whole."""
    rim: float
    """Of the rim, a 16th of the sides wide."""
    middle: float
    """Of the ninth in the middle."""
    flat: bool
    """One value everywhere: it changes nothing."""
    jpeg: bytes
    """The image, tinted where it is not learned, as a JPEG file."""


def mask_stats(view: View, thumb: Image.Image) -> MaskStats:
    """Measure the mask of a view.

    Args:
        view: Of an image with a mask.
        thumb: The same crop, RGB, at any scale.

    Raises:
        BadImage: The mask cannot be read.
    """
    pixels = mask_pixels(view)
    height, width = pixels.shape
    rim = np.ones((height, width), bool)
    rows, columns = max(1, int(height * BORDER)), max(1, int(width * BORDER))
    rim[rows : height - rows, columns : width - columns] = False
    middle = pixels[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)]
    file = io.BytesIO()
    tinted(thumb, Image.fromarray(pixels)).save(file, "JPEG", quality=JPEG_QUALITY)
    return MaskStats(
        share=float(pixels.mean()) / 255,
        rim=float(pixels[rim].mean()) / 255,
        middle=float(middle.mean()) / 255,
        flat=int(pixels.min()) == int(pixels.max()),
        jpeg=file.getvalue(),
    )
