"""What images of a LoRA are measured by: likeness, prompt-following, leak and variety.

- *likeness*: mean cosine of an image of a prompt with the trigger to each training image (DreamBooth's
  CLIP-I and DINO, Ruiz et al., arXiv 2208.12242).
- *prompt*: how well such an image fits the words of its prompt, as the encoder sees it (CLIP-T, ibid.).
- *leak*: 1 minus the cosine of an image of a prompt without the trigger to the bare base's of the same seed.
- *variety*: mean of 1 minus the cosine between images of one prompt from different seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from limner.judging.bootstrap import Draws, draws, means, pair_means

MEASURES = ("likeness", "prompt", "leak", "variety")
BASE = 0
"""Number of the cell that is the bare base."""


@dataclass(frozen=True)
class Features:
    """What an encoder says of all images. C cells with the base as the first, P and Q prompts, S seeds."""

    trigger: np.ndarray
    """(C, P, S, D), each of length 1: of prompts with the trigger."""
    plain: np.ndarray
    """(C, Q, S, D): of prompts without it; Q may be 0."""
    training: np.ndarray
    """(N, D): of the training images."""
    texts: np.ndarray | None
    """(C, P, S, P): how well an image fits each of the P prompts; NaN for a prompt that it cannot read."""


@dataclass(frozen=True)
class Samples:
    """Means of every cell over R draws of prompts and seeds, the estimates first."""

    means: Mapping[str, np.ndarray]
    """Measure -> (R, C). A measure that nothing is known of is not there."""
    shares: Mapping[str, np.ndarray]
    """"likeness", "prompt", "leak" -> (R, C) in [0, 1]: on a scale whose ends are known.

    Likeness: 0 the bare base's, 1 that of the training images among themselves. Prompt: 0 the base's images
    of other prompts, 1 the base's of this one. Leak: 1 as far as the training images lie from the base's."""
    ceiling: float
    """Likeness of the training images among themselves; 1 for a single one."""

    @property
    def tells_apart(self) -> bool:
        """Whether the encoder has the training images more alike than the base's images are to them."""
        return self.ceiling > self.means["likeness"][0, BASE]

    @property
    def scores(self) -> np.ndarray:
        """(R, C) in [0, 1]: geometric mean of likeness, prompt-following and 1 - leak, of those known.

        It is 0 for the base, which learned nothing, and for what forgets the prompt or changes all others.
        """
        factors = [1 - share if name == "leak" else share for name, share in self.shares.items()]
        return np.prod(factors, axis=0) ** (1 / len(factors))


def measured(features: Features, seed: int = 0) -> Samples:
    """The four measures of every cell.

    Args:
        features: Of all images.
        seed: Of the bootstrap's draws.
    """
    generator = np.random.default_rng(seed)
    cells, prompts, seeds, _ = features.trigger.shape
    count = draws(prompts, seeds, generator)
    similarity = np.einsum("cpsd,nd->cps", features.trigger, features.training) / len(features.training)
    result = {"likeness": means(similarity, count)}
    ceiling = _ceiling(features.training)
    shares = {"likeness": _share(result["likeness"], result["likeness"][:, [BASE]], ceiling)}
    if features.texts is not None and (readable := ~np.isnan(features.texts[BASE, 0, 0])).any():
        result["prompt"], shares["prompt"] = _following(features.texts, readable, count)
    if features.plain.shape[1]:
        plain_count = Draws(draws(features.plain.shape[1], seeds, generator).prompts, count.seeds)
        change = 1 - np.einsum("cqsd,qsd->cqs", features.plain, features.plain[BASE])
        result["leak"] = means(change, plain_count)
        distance = 1 - np.einsum("qsd,nd->qsn", features.plain[BASE], features.training).mean()
        shares["leak"] = np.clip(result["leak"] / max(distance, 1e-6), 0, 1)
    if seeds > 1:
        result["variety"] = pair_means(_distances(features.trigger), count)
    return Samples({name: result[name] for name in MEASURES if name in result}, shares, ceiling)


def _following(texts: np.ndarray, readable: np.ndarray, count: Draws) -> tuple[np.ndarray, np.ndarray]:
    """(R, C) of prompt-following, and its share; where all prompts say the same, chance is unknown, and 0."""
    numbers = np.flatnonzero(readable)
    texts = texts[:, numbers][..., numbers]
    fit = texts.diagonal(axis1=1, axis2=3).swapaxes(1, 2)  # (C, P, S): of its own prompt
    drawn_prompts = count.prompts[:, numbers]
    weights = drawn_prompts * (len(numbers) / np.maximum(drawn_prompts.sum(1, keepdims=True), 1))
    following = means(fit, Draws(weights, count.seeds))
    following[drawn_prompts.sum(1) == 0] = np.nan
    rest = len(numbers) - 1
    chance = (texts[BASE].sum() - fit[BASE].sum()) / (fit[BASE].size * rest) if rest else 0.0
    return following, _share(following, np.array(chance), following[0, BASE])


def _share(values: np.ndarray, floor: np.ndarray, ceiling: float) -> np.ndarray:
    """Where values stand between two ends, in [0, 1]."""
    room = np.maximum(ceiling - floor, 1e-6)
    return np.clip((values - floor) / room, 0, 1)


def _ceiling(training: np.ndarray) -> float:
    """Mean cosine between two of the training images; 1 for a single one."""
    number = len(training)
    if number == 1:
        return 1.0
    return float((training @ training.T).sum() - number) / (number * (number - 1))


def _distances(features: np.ndarray) -> np.ndarray:
    """(C, P, S, D) -> (C, P, S, S), 0 on the diagonal."""
    distance = 1 - np.einsum("cpsd,cptd->cpst", features, features)
    numbers = np.arange(distance.shape[-1])
    distance[..., numbers, numbers] = 0
    return np.maximum(distance, 0)
