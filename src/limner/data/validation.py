"""How many images are held out, measured and painted: rules that a plan and the run itself both follow."""

FEW, SHARE = 20, 10
"""From so many images on, one in so many is held out unless the recipe says how many."""
SUBSET = 8
"""Training images whose loss is measured where none is held out."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the recipe's time density: noise levels at which the loss of an image is measured."""
PAINTED = 4
"""Captions of the folder that are painted where the recipe has no prompts."""


def held_out(images: int, wished: int | None) -> int:
    """Images kept from the training, of so many different ones; ``wished`` is ``data.validation_count``."""
    if wished is not None:
        return wished
    return images // SHARE if images >= FEW else 0
