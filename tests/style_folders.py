"""Folders of styles, each a ground and a colour of its own, and a recipe that trains a predictor on them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limner.recipe.schema import Recipe

NOUNS = ("cat", "dog", "hat", "sun", "tree", "fish", "boat", "moon")


def style_folders(root: Path, styles: int, images: int, side: int = 48) -> Path:
    """``root`` with a folder for each style, ``style-0`` .., of as many pictures with captions."""
    for style in range(styles):
        folder = root / f"style-{style}"
        folder.mkdir(parents=True)
        draw = np.random.default_rng(style)
        ground, ink = draw.integers(0, 255, (2, 3), dtype=np.uint8)
        for number in range(images):
            pixels = np.full((side, side, 3), ground, np.uint8)
            top, left = draw.integers(0, side // 2, 2)
            pixels[top : top + side // 3, left : left + side // 2] = ink
            Image.fromarray(pixels).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(NOUNS[number % len(NOUNS)])
    return root


def predictor_recipe(base: Path | str, styles: Path, **sections: Any) -> Recipe:
    """Four steps of two styles, one held out, no samples; each section given is laid over that."""
    plain: dict[str, Any] = {
        "data": {"images": str(styles), "validation_count": 1, "resolution": 32, "min_side": 16},
        "lora": {"rank": 2},
        "train": {"method": "instant", "steps": 4, "batch": 4, "learning_rate": 1e-2, "save_every": 2},
        "instant": {"group": 2, "references": [2], "side": 32, "width": 16, "bottleneck": 4},
        "sample": {"every": -1},
    }
    for name, values in sections.items():
        plain[name] = {**plain.get(name, {}), **values}
    return Recipe(base=str(base), **plain)
