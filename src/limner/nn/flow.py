"""Rectified flow (Liu et al. 2022, arXiv:2209.03003): a straight path from data to noise."""

import math

import torch
from torch import Tensor


def noisy(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t e, with t in [0, 1], (B,), broadcast over the rest."""
    t = time.view(-1, *[1] * (clean.ndim - 1))
    return (1 - t) * clean + t * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """dx_t / dt: what the denoiser is asked to say, the same at every t."""
    return noise - clean


def density(name: str, uniform: Tensor) -> Tensor:
    """Turn uniform numbers in (0, 1) into times in (0, 1), by the inverse of the density's CDF.

    ``logit-normal`` with mean 0 and width 1 (Esser et al. 2024, arXiv:2403.03206, section 3.1), which the
    kohya tools call ``sigmoid``; or ``uniform``. The inverse CDF lets quantiles stand in for draws.
    """
    if name == "uniform":
        return uniform
    return torch.sigmoid(torch.special.ndtri(uniform))


def shifted(time: Tensor, shift: float) -> Tensor:
    """S t / (1 + (s - 1) t): larger shifts spend more time near noise (Esser et al. 2024, section 5.3.2)."""
    return shift * time / (1 + (shift - 1) * time)


def resolution_shift(
    tokens: int, low: float = 0.5, high: float = 1.15, few: float = 256, many: float = 4096
) -> float:
    """FLUX's shift exp(mu), mu linear in the number of image tokens: low at few, high at many.

    Source: black-forest-labs/flux, ``sampling.py``, ``get_schedule``.
    """
    return math.exp(low + (high - low) * (tokens - few) / (many - few))


def empirical_shift(tokens: int, steps: int = 50) -> float:
    """FLUX.2's shift exp(mu): a line in the number of image tokens, fitted for 10 and for 200 steps.

    Source: black-forest-labs/flux2, ``sampling.py``, ``compute_empirical_mu``.
    """
    for_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return math.exp(for_200)
    for_10 = 8.73809524e-05 * tokens + 1.89833333
    return math.exp(for_200 + (for_10 - for_200) * (200 - steps) / 190)
