"""How many images are held out, measured and painted: rules that a plan and the run itself both follow."""

MIN_IMAGES, SHARE = 20, 10
"""From so many images on, one in so many is held out unless the recipe says how many."""
SUBSET = 8
"""Training images whose loss is measured where none is held out."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the recipe's time density: noise levels at which the loss of an image is measured."""
CAPTION_PROMPTS = 4
"""Captions of the folder that are painted where the recipe has no prompts."""


def held_out(images: int, count: int | None) -> int:
    """Images kept from the training, of so many different ones; ``count`` is ``data.validation_count``."""
    if count is not None:
        return count
    return images // SHARE if images >= MIN_IMAGES else 0
