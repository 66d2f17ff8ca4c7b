"""What each of several processes of a run computes, and on what. No torch."""

import math
from dataclasses import replace

from limner.errors import BadRecipe
from limner.planning.devices import Device
from limner.planning.local_device import device_for
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import counted


def images_of(recipe: Recipe) -> int:
    """Images of one step, those of the prior among them."""
    return recipe.train.batch + (recipe.prior.batch if recipe.prior.wanted else 0)


def share_of(recipe: Recipe, processes: int) -> Recipe:
    """The recipe with the images that one of equal processes computes in a step.

    Raises:
        BadRecipe: There are not enough for all.
    """
    if (images := images_of(recipe)) < processes:
        raise BadRecipe(
            f"{processes} processes train together, and a step has {counted(images, 'image')} (train.batch): "
            f"each computes one at least. Set train.batch to {processes} or more, or start fewer processes."
        )
    changes = {"train.batch": math.ceil(recipe.train.batch / processes)}
    if recipe.train.method == "instant":  # micro-batches may cut through a group
        changes["instant.group"] = math.gcd(changes["train.batch"], recipe.instant.group)
    if recipe.prior.wanted:
        changes["prior.batch"] = math.ceil(recipe.prior.batch / processes)
    return change(recipe, changes)


def one_of(device: Device, processes: int, local: int) -> Device:
    """A device as one of several processes has it.

    Args:
        device: As it is for one alone.
        processes: Of the run, each on such a device.
        local: Of them, those that share this computer's memory.
    """
    free = device.free if device.kind == "cuda" else device.free // local
    return replace(
        device, free=free, ram=device.ram // local, pinned=device.pinned // local, processes=processes
    )


def parted(recipe: Recipe, card: str | None, processes: int) -> tuple[Recipe, Device]:
    """What one of several processes of one computer computes, and on what: a card by name, or what is here.

    Raises:
        BadRecipe: There are not enough images for all.
        BadUsage: No such card is known.
    """
    device = device_for(recipe.limits, card=card)
    if processes == 1:
        return recipe, device
    return share_of(recipe, processes), one_of(device, processes, processes)
