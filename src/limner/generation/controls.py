"""Control images of ``generate``: what an edit model is shown beside a prompt."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from limner.data.images import read_image
from limner.errors import BadUsage
from limner.generation.settings import Settings
from limner.models.family import Family
from limner.models.registry import families


def require_controls(family: Family, settings: Settings) -> None:
    """Raise ``BadUsage`` unless there are as many control images as the base reads, and each is a file."""
    minimum, maximum = families()[family.name].controls
    count = len(settings.controls)
    if count and not maximum:
        raise BadUsage(
            f"--image is {settings.controls[0]}, and {family.name} reads no control image. Remove it."
        )
    if count < minimum:
        raise BadUsage(f"{family.name} is an edit model. Say what to edit: --image FILE.")
    if count > maximum:
        raise BadUsage(f"There are {count} images, and {family.name} reads at most {maximum}. Name fewer.")
    for path in settings.controls:
        if not path.is_file():
            raise BadUsage(f"--image is {path}, and there is no such file. Check the path.")


def shown_images(family: Family, resolution: int, files: Sequence[Path]) -> tuple[Image.Image, ...]:
    """Control images as the stock pipeline is given them.

    Args:
        family: Of the base.
        resolution: Side in pixels of the square that the base was made for.
        files: At most as many as the family reads.

    Raises:
        BadImage: A file cannot be read, or the base cannot read one of its size.
    """
    if not files or not family.controls:
        return ()
    fit = next(iter(family.controls.fits(resolution).values()))
    images = [read_image(path) for path in files]
    for path, image in zip(files, images, strict=True):
        fit.require(path, *image.size)
    return tuple(map(fit.image, images))
