"""Units that most families share: an image becomes a latent, a latent gets noise."""

import math
from typing import Any

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


@unit("latent")
def draw_latent(latent_mean: Tensor, latent_logvar: Tensor, draw: Draw) -> Tensor:
    """One sample of each image's posterior, (B, C, h, w)."""
    return latent_mean + (latent_logvar / 2).exp() * draw.normal("latent", latent_mean)


@unit("noise")
def draw_noise(latent: Tensor, draw: Draw) -> Tensor:
    """(B, C, h, w)."""
    return draw.normal("noise", latent)
