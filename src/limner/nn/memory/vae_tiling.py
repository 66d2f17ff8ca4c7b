"""Autoencoders of diffusers made to work in overlapping tiles: memory no longer grows with the image."""

from typing import Any

from torch import nn

SIDE = 512
"""Pixels of a tile: the smallest side that these autoencoders were trained at. Part of cache addresses."""
OVERLAP = 0.25
"""Share of a tile that is blended with the next one."""


def can_tile(vae: nn.Module) -> bool:
    """Whether an autoencoder knows how to work in tiles of a given side."""
    return "tile_sample_min_size" in vars(vae) or "tile_sample_min_height" in vars(vae)


def tile(vae: Any, *, on: bool = True) -> None:
    """Encode and decode what is larger than :data:`SIDE` in tiles from here on, or no longer.

    Seams are blended, and each tile has statistics of its own in the group norms, so the numbers differ a
    little from those of the whole image.

    Args:
        vae: An autoencoder for which :func:`can_tile` is true; any other is left alone.
        on: Or off.
    """
    if not can_tile(vae):
        return
    vae.use_tiling = on
    if "tile_sample_min_size" in vars(vae):
        vae.tile_sample_min_size = SIDE
        vae.tile_latent_min_size = SIDE // 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_overlap_factor = OVERLAP
        return
    vae.tile_sample_min_height = vae.tile_sample_min_width = SIDE
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = round(SIDE * (1 - OVERLAP))
