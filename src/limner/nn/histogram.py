"""By what a hand is known: the palette and the edges of a picture, whatever it draws."""

import torch
from torch import Tensor

LEVELS = 8
"""Of each colour channel."""
STEPS = (1, 2, 4)
"""Distances, in pixels, at which neighbours are compared."""
BINS = 16
FEATURES = LEVELS**3 + BINS * len(STEPS)


@torch.no_grad()
def hand(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] -> (B, ``FEATURES``): square roots of shares, of colours and of differences.

    Where a thing stands is lost on purpose. A network that sees shapes learns which drawing it was shown,
    and a drawing has one hand: it answers for those it knows and guesses for others.
    """
    images = images.float()
    levels = (images * LEVELS).long().clamp(0, LEVELS - 1)
    colours = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    histograms = [_shares(colours.flatten(1), LEVELS**3)]
    for step in STEPS:
        horizontal = images[..., step:] - images[..., :-step]
        down = images[..., step:, :] - images[..., :-step, :]
        slopes = torch.cat([slope.abs().amax(1).flatten(1) for slope in (horizontal, down)], dim=1)
        histograms.append(_shares((slopes.clamp(0, 1).sqrt() * BINS).long().clamp(max=BINS - 1), BINS))
    return torch.cat(histograms, dim=1).sqrt()


def _shares(values: Tensor, count: int) -> Tensor:
    """(B, N) whole numbers below ``count`` -> (B, count): how many of each, as a share."""
    out = torch.zeros(len(values), count, device=values.device)
    return out.scatter_add_(1, values, torch.full(values.shape, 1 / values.shape[1], device=values.device))
