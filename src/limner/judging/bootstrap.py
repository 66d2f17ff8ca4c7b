"""Means over prompts and seeds, and how far they would move with other prompts and other seeds.

Images come from a crossed design: every cell (a step at a strength) has the same prompts and the same seeds.
The bootstrap (Efron 1979) draws prompts and seeds anew, each with replacement, and the same draws for all
cells, so that differences between cells are paired.
"""

from dataclasses import dataclass

import numpy as np

REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Draws:
    """How often each prompt and each seed counts."""

    prompts: np.ndarray
    """(R, P); rows sum to P."""
    seeds: np.ndarray
    """(R, S); rows sum to S."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval of 95 %."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def draws(prompts: int, seeds: int, generator: np.random.Generator) -> Draws:
    """The plain counts first, all 1, so that row 0 of every mean is the estimate; then the replicates."""

    def counts(items: int) -> np.ndarray:
        return generator.multinomial(items, [1 / max(items, 1)] * items, REPLICATES)

    return Draws(
        np.concatenate([np.ones((1, prompts)), counts(prompts)]),
        np.concatenate([np.ones((1, seeds)), counts(seeds)]),
    )


def means(values: np.ndarray, count: Draws) -> np.ndarray:
    """Mean of each cell for each draw.

    Args:
        values: (C, P, S), one of an image.
        count: Of R draws.

    Returns:
        (R, C).
    """
    total = np.einsum("cps,rp,rs->rc", values, count.prompts, count.seeds, optimize=True)
    return total / (values.shape[1] * values.shape[2])


def pair_means(values: np.ndarray, count: Draws) -> np.ndarray:
    """The same of values of pairs of seeds, of which a seed with itself is none.

    Args:
        values: (C, P, S, S), 0 on the diagonal.
        count: Of R draws.

    Returns:
        (R, C); NaN where a draw has one seed only.
    """
    prompts, seeds = count.prompts, count.seeds
    total = np.einsum("cpst,rp,rs,rt->rc", values, prompts, seeds, seeds, optimize=True)
    pairs = seeds.sum(1) ** 2 - (seeds**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / (pairs * values.shape[1])[:, None]


def interval(samples: np.ndarray) -> Interval:
    """The estimate and the percentiles of its replicates.

    Args:
        samples: (R,), the estimate first; NaN where a draw says nothing.
    """
    if np.isnan(samples[1:]).all():
        return Interval(float(samples[0]), float("nan"), float("nan"))
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(samples[1:], [tail, 100 - tail])
    return Interval(float(samples[0]), float(low), float(high))


def not_worse(scores: np.ndarray, best: int) -> list[int]:
    """The cells that cannot be told from the best one: a confidence set at 95 % (Hansen et al. 2011).

    The largest of all the studentised differences decides, since the best was picked among all.

    Args:
        scores: (R, C), the estimates first.
        best: Its number.
    """
    scores = scores[~np.isnan(scores).any(1)]  # some draws may have no prompt that the encoder reads
    difference = scores[:, [best]] - scores
    spread = difference[1:].std(0)
    spread[spread == 0] = np.inf  # equal to the best in every draw
    largest = ((difference[1:] - difference[0]) / spread).max(1)
    limit = np.quantile(largest, LEVEL)
    return [cell for cell in range(scores.shape[1]) if difference[0, cell] / spread[cell] <= limit]
