"""Everything that is measured of one image, on the pixels that training would see."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from limner.checking import borders, compression, exposure, variety, watermark
from limner.checking.mask_stats import MaskStats, mask_stats
from limner.checking.sharpness import Sharpness, sharpness
from limner.data import near_duplicates
from limner.data.folder import Example
from limner.data.images import FormatInfo, decode, format_info
from limner.data.subject import Crop, choose_crop
from limner.data.views import View, seen, wanted

NATIVE = 2.5
"""Times an image may be reduced for its own pixels to be looked at: beyond that, blocks vanish."""
THUMB = 320
"""Pixels of the longer side of the small picture that is kept for pages."""
JPEG_QUALITY = 84


@dataclass(frozen=True, eq=False)
class ImageStats:
    """One image, as training would see it, in figures."""

    example: Example
    size: tuple[int, int]
    """Its bucket, (width, height); of several the largest."""
    cut: Crop
    format_info: FormatInfo
    upscale: float
    """Times that the crop is enlarged to fill the bucket; below 1 it is reduced."""
    quality: int | None
    """Of a JPEG's tables, 1 to 100."""
    blocks: float
    """See :func:`limner.checking.compression.blockiness`; 1 where the image is reduced too far to tell."""
    sharpness: Sharpness
    exposure: str
    borders: tuple[float, float, float, float]
    phash: near_duplicates.PerceptualHash
    features: np.ndarray
    frames: np.ndarray | None
    """Of the whole image: marks keep their distance from its corners. None: not kept, for want of memory."""
    jpeg: bytes
    """The crop, at most ``THUMB`` pixels a side, as a JPEG file: some 15 kB, where pixels take 300."""
    mask: MaskStats | None = None
    """None where all of the image counts."""
    smaller: tuple[tuple[int, int], ...] = ()
    """Further buckets that it is seen in, (width, height)."""

    @property
    def thumb(self) -> Image.Image:
        """The crop, RGB, at most ``THUMB`` pixels a side."""
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


def measure(
    example: Example, sizes: Sequence[tuple[int, int]], *, follow: bool = True, keep_frames: bool = True
) -> ImageStats:
    """Measure an image: about 250 ms of one core for 24 megapixels seen at 1024.

    Args:
        example: The image.
        sizes: Its buckets, (width, height) in pixels, the largest first: it is measured in that.
        follow: Whether crops follow the subject.
        keep_frames: Whether to keep what marks are looked for in, 300 kB.

    Raises:
        BadImage: The file cannot be read.
    """
    size = sizes[0]
    crop = choose_crop(example, size, follow=follow)
    info = format_info(example.path)
    left, top, right, bottom = crop.crop
    reduction = (right - left) / size[0]
    blocks = 1.0
    view = View(example, size, crop.crop, flip=False, caption="")
    if reduction <= NATIVE:
        whole, _ = decode(example.path)
        blocks = compression.blockiness(compression.native(whole, 1024))
        part = whole.crop(crop.crop)
        bucket_image = (
            part.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0) if reduction > 1 else part
        )
        rgb = np.asarray(bucket_image)
    else:
        whole, full = decode(example.path, wanted(view))
        rgb = seen(whole, full, view)
    image = Image.fromarray(rgb)
    thumb = image.copy()
    thumb.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    return ImageStats(
        example=example,
        size=size,
        cut=crop,
        format_info=info,
        upscale=1 / reduction,
        quality=compression.quality(info.coarseness),
        blocks=blocks,
        sharpness=sharpness(np.asarray(image.convert("L"))),
        exposure=exposure.fault(rgb),
        borders=borders.borders(rgb),
        phash=near_duplicates.perceptual_hash(rgb),
        features=variety.features(rgb),
        frames=watermark.frames(whole) if keep_frames else None,
        jpeg=jpeg_of(thumb),
        mask=mask_stats(view, thumb) if example.mask else None,
        smaller=tuple(sizes[1:]),
    )


def jpeg_of(image: Image.Image) -> bytes:
    """An RGB image as a JPEG file."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
