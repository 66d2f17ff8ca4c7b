"""A folder of pictures that are in order, small, and what is planted into it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

GROUNDS = (
    "a beach",
    "the snow",
    "a street",
    "a kitchen",
    "a wood",
    "a stage",
    "a field",
    "a roof",
    "a cave",
    "a boat",
)


def scene(seed: int, size: tuple[int, int] = (160, 160)) -> Image.Image:
    """Coloured squares with sharp edges over soft ones."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(20, 235, (5, 5, 3), dtype=np.uint8))
    page = coarse.resize(size, Image.Resampling.BICUBIC)
    for _ in range(6 * max(1, size[0] // 160)):
        at = [int(draw.integers(0, max(1, side - 40))) for side in size]
        page.paste(tuple(draw.integers(0, 255, 3).tolist()), (*at, *(each + 30 for each in at)))
    return page


def good(folder: Path, count: int = 10) -> Path:
    """Ten pictures with captions, in order."""
    folder.mkdir(parents=True)
    for number in range(count):
        scene(number).save(folder / f"good{number}.png")
        (folder / f"good{number}.txt").write_text(f"sks cat in {GROUNDS[number]}")
    return folder


def plant(
    folder: Path, name: str, image: Image.Image, caption: str = "sks cat, planted by {}", **options
) -> None:
    """Add one picture with its caption."""
    image.save(folder / name, **options)
    (folder / name).with_suffix(".txt").write_text(caption.format(Path(name).stem))


def blurred(seed: int) -> Image.Image:
    return scene(seed).filter(ImageFilter.GaussianBlur(3))
