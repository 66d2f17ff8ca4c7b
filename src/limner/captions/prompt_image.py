"""The copy of an image that a captioner sees: small, upright, and without what the camera wrote into it."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from limner.data.images import read_image

QUALITY = 90


@dataclass(frozen=True)
class PromptImage:
    """A JPEG in memory. Pixels only: no EXIF, no position, no name."""

    jpeg: bytes
    width: int
    height: int

    @property
    def base64(self) -> str:
        """As the protocols want it."""
        return base64.b64encode(self.jpeg).decode("ascii")

    @property
    def image(self) -> Image.Image:
        """Decoded, RGB."""
        return Image.open(BytesIO(self.jpeg)).convert("RGB")


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size within ``side`` pixels; never larger than the original, never less than 1."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def prompt_image(path: Path, side: int) -> PromptImage:
    """A copy whose longer side has at most ``side`` pixels.

    Raises:
        BadImage: The file cannot be used.
    """
    bounds = (side, side)
    image = read_image(path, at_least=bounds)
    size = fitted(*image.size, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = BytesIO()
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    clean.save(out, "JPEG", quality=QUALITY)
    return PromptImage(out.getvalue(), *size)
