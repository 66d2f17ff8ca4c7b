"""What a predictor sees of a picture: one vector of its style, and one of what is where."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.histogram import FEATURES, hand

CHANNELS = (32, 64, 128)


class ResidualPair(nn.Module):
    """A residual pair of 3 x 3 convolutions that starts as the identity, but for a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same."""
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class StyleEncoder(nn.Module):
    """A small convolutional network, trained with the predictor, beside a histogram that needs no learning.

    The network's means and deviations at three scales say texture and line (as Gram matrices do: Gatys et al.
    2016); the histogram says palette and edges whatever is drawn.

    Args:
        width: Of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = CHANNELS
        self.conv1 = nn.Conv2d(3, first, 4, 2, 1)
        self.conv2 = nn.Conv2d(first, second, 3, 2, 1)
        self.conv3 = nn.Conv2d(second, third, 3, 2, 1)
        self.pair = ResidualPair(third)
        self.histogram = nn.Linear(FEATURES, width)
        self.norm = nn.LayerNorm(2 * sum(CHANNELS))
        self.pool = nn.Linear(2 * sum(CHANNELS), width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, side, side) uint8 -> (N, width)."""
        images = pixels.float() / 255
        fine = F.silu(self.conv1((images - 0.5) * 4))
        middle = F.silu(self.conv2(fine))
        coarse = self.pair(F.silu(self.conv3(middle)))
        maps = [scale.flatten(2) for scale in (fine, middle, coarse)]
        moments = torch.cat([moment for scale in maps for moment in (scale.mean(2), scale.std(2))], 1)
        features = self.pool(self.norm(moments)) + self.histogram(hand(images) * math.sqrt(FEATURES) / 2)
        return features + self.mix(features)


class DetailEncoder(nn.Module):
    """Latents of pictures, flat, so that each place has weights of its own -> one vector of what they show.

    Args:
        latents: Channels times places.
        width: Of the vector.
    """

    def __init__(self, latents: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(latents)
        self.linear = nn.Linear(latents, width)
        self.mix = nn.Sequential(nn.Linear(latents, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.end = nn.LayerNorm(width)

    def forward(self, latents: Tensor) -> Tensor:
        """(S, k, latents) -> (S, width): the mean over k pictures of each of S styles."""
        features = self.norm(latents)
        return self.end((self.linear(features) + self.mix(features)).mean(1))
