"""What a base's own autoencoder sees of a picture: latents place by place, as a look of a predictor."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from limner.errors import BadRecipe
from limner.graph.unit import Unit
from limner.hyper.predictor import pixels_of
from limner.models.bundled import Shipped
from limner.models.facts import Objective
from limner.models.family import Family
from limner.models.loading import load, skeleton
from limner.models.registry import embedded_bases
from limner.models.source import Source, locate

CPU = torch.device("cpu")


def look_unit(family: Family, name: str, side: int) -> Unit:
    """The family's own unit that encodes images, of their middle squares, as one that writes a look.

    Args:
        family: Of the base.
        name: Of the value.
        side: Pixels of the squares.

    Raises:
        BadRecipe: The family's autoencoder takes no such squares.
    """
    if side % family.multiple:
        raise BadRecipe(
            f"The autoencoder of {family.name} is to look at squares of {side} pixels, and takes multiples "
            f"of {family.multiple}. Set instant.vae_side = {-(-side // family.multiple) * family.multiple}."
        )
    encode = next(unit for unit in family.units if "latent_mean" in unit.writes)
    function = partial(_latents, encode.function)
    constants = {**encode.constants, "side": side}
    return Unit(
        name=name,
        function=function,
        uses=encode.uses,
        reads=encode.reads,
        writes=(name,),
        draws=False,
        version=encode.version,
        needs=encode.needs,
        constants=constants,
    )


def _latents(encode: Callable[..., Any], vae: Any, image: Tensor, *, side: int, **constants: Any) -> Tensor:
    """(1, 3, H, W) uint8 -> (1, 1, numbers) in fp32: a set of one picture."""
    if image.is_meta:
        square = image.new_empty((1, 3, side, side))
    else:
        square = pixels_of([Image.fromarray(image[0].permute(1, 2, 0).cpu().numpy())], side).to(image.device)
    return encode(vae, square, **constants)[0].float().flatten(1)[:, None]


def width_of(family: Family, source: Source, side: int) -> int:
    """Numbers of the latents of a square: channels times places, from the base's configs alone.

    Raises:
        BadRecipe: See :func:`look_unit`.
    """
    unit = look_unit(family, "look", side).bind(**family.constants(source, Objective()))
    part = unit.uses[0]
    vae = skeleton(family, source, part, dtype=torch.float32)
    image = torch.empty((1, 3, side, side), dtype=torch.uint8, device="meta")
    return unit.run({part: vae}, {"image": image})["look"].shape[-1]


def with_weights(source: Source, parts: Sequence[str], tell: Callable[[str], None]) -> Source:
    """A base whose weights of some parts are on this disk; those of the other parts are not fetched.

    Args:
        source: Of a registered base its configs are enough.
        parts: Whose weights are needed.
        tell: Is told licence and size before weights are fetched.

    Raises:
        BadBase: The weights cannot be had.
    """
    if not isinstance(source, Shipped):
        return source
    idle_parts = [part for part in source.models if part not in parts]
    return locate(source.name, folders=embedded_bases(), tell=tell, skip_weights=idle_parts)


@torch.no_grad()
def latents_of(
    images: Sequence[Image.Image], source: Source, family: Family, side: int, tell: Callable[[str], None]
) -> Tensor:
    """What a base's autoencoder sees of pictures, (k, numbers) in float32. No other weights are fetched.

    Args:
        images: RGB, of any sizes.
        source: The base; of a registered one its configs are enough.
        family: Its family.
        side: Pixels of the middle square that is encoded.
        tell: Is told licence and size before weights are fetched.

    Raises:
        BadBase: The weights cannot be had, or are damaged.
    """
    unit = look_unit(family, "look", side).bind(**family.constants(source, Objective()))
    part = unit.uses[0]
    vae = load(family, with_weights(source, unit.uses, tell), part, dtype=torch.float32, device=CPU)
    squares = [pixels_of([image], side) for image in images]
    return torch.cat([unit.run({part: vae}, {"image": square})["look"][0] for square in squares])
