"""How images are cropped to their buckets, drawn on their small copies."""

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance

from limner.data.folder import Example
from limner.data.views import Scale, buckets, centre, size_of
from limner.studio.images.image_set import ImageSet

MULTIPLE = 16
"""Image sides are multiples of this, in pixels, where no check has asked the base: most families' own."""
DIMMING = 0.35
"""Brightness of what a crop takes away."""
FRAME = (255, 140, 0)
"""Colour of the frame around what is trained, RGB."""

Box = tuple[int, int, int, int]


def crop_of(
    images: ImageSet, file: str, size: tuple[int, int], resolution: int
) -> tuple[tuple[int, int], Box]:
    """The bucket of an image, (width, height), and its central crop in upright pixels.

    Args:
        images: The set.
        file: The image.
        size: Its (width, height), upright pixels.
        resolution: Side in pixels of the square whose area images get.

    Raises:
        BadData: Its ``.crop`` cannot be used.
        BadRecipe: The resolution is too small.
    """
    extent = images.extent(file, *size)
    example = Example(images.folder / file, "", *size, ("",), region=extent)
    bucket = size_of(example, [Scale(buckets(resolution, multiple=MULTIPLE))])
    return bucket, centre(example, bucket)


def with_crop(jpeg: bytes, size: tuple[int, int], crop: Box) -> bytes:
    """A small copy with a frame around the crop, and the rest darkened.

    Args:
        jpeg: The whole image, small, as a JPEG.
        size: (width, height) of the image in pixels.
        crop: (left, top, right, bottom) in pixels of the image.

    Returns:
        A JPEG of the same size.
    """
    small = Image.open(BytesIO(jpeg)).convert("RGB")
    scale_x, scale_y = small.width / size[0], small.height / size[1]
    left, top, right, bottom = crop
    box = (round(left * scale_x), round(top * scale_y), round(right * scale_x), round(bottom * scale_y))
    dark = ImageEnhance.Brightness(small).enhance(DIMMING)
    dark.paste(small.crop(box), box[:2])
    ImageDraw.Draw(dark).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=FRAME, width=2)
    stream = BytesIO()
    dark.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def bucket_counts(images: ImageSet, sizes: dict[str, tuple[int, int]], resolution: int) -> dict[str, int]:
    """``"832 x 1216"`` -> how many images get that size, the most frequent first."""
    from collections import Counter

    names = [crop_of(images, file, size, resolution)[0] for file, size in sizes.items()]
    counts = Counter(f"{width} x {height}" for width, height in names)
    return dict(counts.most_common())


def path_mark(path: Path) -> str:
    """Size and time of a file: what is read from it holds as long."""
    facts = path.stat()
    return f"{facts.st_size}|{facts.st_mtime_ns}"
