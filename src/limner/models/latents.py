"""Latents: of images, drawn, with noise, as tokens of a transformer. Most families share these units."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limner.graph.unit import unit
from limner.nn.rng import Draw


@unit("latent_mean", "latent_logvar", uses=("vae",), version=2)
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and log-variance of the normalised latent, each (B, C, H/8, W/8).

    Both are kept, and the latent is drawn after the cut: otherwise one fixed sample of each image's
    posterior would be trained on for the whole run.
    """
    pixels = image.to(vae.dtype) / 127.5 - 1
    posterior = vae.encode(pixels).latent_dist
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    return (posterior.mean - shift) * scale, posterior.logvar + 2 * math.log(scale)


@unit("control_latent", uses=("vae",))
def encode_control(vae: Any, control: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> the mean of the normalised latent, (B, C, h/8, w/8): pipelines sample none."""
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    return (vae.encode(control.to(vae.dtype) / 127.5 - 1).latent_dist.mode() - shift) * scale


@unit("latent")
def draw_latent(latent_mean: Tensor, latent_logvar: Tensor, draw: Draw) -> Tensor:
    """One sample of each image's posterior, (B, C, h, w)."""
    return latent_mean + (latent_logvar / 2).exp() * draw.normal("latent", latent_mean)


@unit("noise")
def draw_noise(latent: Tensor, draw: Draw) -> Tensor:
    """(B, C, h, w)."""
    return draw.normal("noise", latent)


def patchify(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): each 2x2 patch becomes channels, the old channel outermost."""
    batch, channels, height, width = latent.shape
    patches = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return patches.reshape(batch, channels * 4, height // 2, width // 2)


def unpatchify(latent: Tensor) -> Tensor:
    """(B, 4 C, h, w) -> (B, C, 2 h, 2 w): undoes :func:`patchify`."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return patches.reshape(batch, channels // 4, height * 2, width * 2)


def tokens(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C), row by row."""
    return latent.flatten(2).transpose(1, 2)


def untokens(sequence: Tensor, height: int) -> Tensor:
    """(B, h w, C) -> (B, C, h, w): undoes :func:`tokens`."""
    return sequence.transpose(1, 2).unflatten(2, (height, -1))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """The parts one behind the other; a single one as it is, which costs no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def first_grid(sequence: Tensor, grids: Sequence[Tensor]) -> Tensor:
    """(B, L, C) -> the tokens (B, h w, C) of the first of some grids (B, ?, h, w) in a row."""
    return sequence if len(grids) == 1 else sequence[:, : grids[0][0, 0].numel()]


def grid(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 2): (row, column) of each token, row by row, in fp32."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([rows, columns], dim=-1).float()
