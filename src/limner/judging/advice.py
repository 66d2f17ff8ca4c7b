"""Which step and strength to take, why, or that it cannot be told."""

from dataclasses import dataclass

import numpy as np

from limner.judging.bootstrap import Interval, interval, not_worse
from limner.judging.measures import BASE, Samples

Cell = tuple[int, float]
LITTLE_VARIETY = 0.5
"""Share of the base's variety below which the images of several seeds are called alike."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to take."""

    step: int | None
    """None: it cannot be told."""
    strength: float | None
    reason: str
    """In a sentence or two."""
    ties: tuple[Cell, ...]
    """(step, strength) that cannot be told from the best, the best first."""
    best: Cell
    """Of the highest score, whether or not that is more than chance."""


def recommend(cells: list[Cell], samples: Samples) -> Recommendation:
    """Compare all cells but the base.

    The LoRA as it is, the last step at strength 1, is replaced only by what is measurably better.

    Args:
        cells: (step, strength), the base first.
        samples: Their measures.
    """
    scores = samples.scores[:, 1:]
    candidates = cells[1:]
    number = int(np.argmax(scores[0]))
    best = candidates[number]
    if not samples.tells_apart:
        base_value = samples.means["likeness"][0, BASE]
        reason = (
            f"It cannot tell: the bare base's images are as like the training images ({base_value:.2f}) as "
            f"these are to each other ({samples.ceiling:.2f}), so the encoder does not see what was learned. "
            "Name another with --encoder."
        )
        return Recommendation(step=None, strength=None, reason=reason, ties=(), best=best)
    if scores[0, number] <= 0:
        reason = (
            "It cannot tell: no image is more like the training images than the bare base's. Train longer."
        )
        return Recommendation(step=None, strength=None, reason=reason, ties=(), best=best)
    tie_numbers = [item for item in not_worse(scores, number) if item != number]
    ties = (best, *(candidates[item] for item in tie_numbers))
    current = max(candidates, key=lambda cell: (cell[0], -abs(cell[1] - 1)))
    gain = interval(scores[:, number] - scores[:, candidates.index(current)])
    if current in ties and current != best:
        reason = (
            f"It cannot tell: {named(best)} has the highest score, and {named(current)}, the LoRA as it is, "
            f"is not measurably worse among {len(candidates)} (difference {gain}). More prompts or seeds, or "
            "fewer --steps and --strengths, tell more."
        )
        return Recommendation(step=None, strength=None, reason=reason, ties=ties, best=best)
    reason = f"{named(best).capitalize()}: {_why(samples, number + 1)}."
    if best != current:
        reason += f" Its score is higher than that of {named(current)}, the LoRA as it is, by {gain}."
    elif len(ties) == 1:
        reason += " It is the LoRA as it is, and measurably better than all others."
    else:
        reason += " It is the LoRA as it is, and nothing is better."
    if len(ties) > 1:
        names = ", ".join(f"{step} at {strength:g}" for step, strength in ties[1:6])
        tail = f" and {len(ties) - 6} more" if len(ties) > 6 else ""
        reason += f" Not measurably worse: {names}{tail}."
    return Recommendation(step=best[0], strength=best[1], reason=reason, ties=ties, best=best)


def named(cell: Cell) -> str:
    """A cell for people: "step 80 at strength 0.8"."""
    return f"step {cell[0]} at strength {cell[1]:g}"


def _why(samples: Samples, cell: int) -> str:
    shares = {name: values[0, cell] for name, values in samples.shares.items()}
    parts = [f"{shares['likeness']:.0%} of the way from the base to the training images' own likeness"]
    if "prompt" in shares:
        parts.append(f"{shares['prompt']:.0%} of the base's prompt-following")
    if "leak" in shares:
        parts.append(
            f"images without the trigger move by {shares['leak']:.0%} of the distance to the training images"
        )
    if "variety" in samples.means:
        variety = samples.means["variety"][0]
        share = variety[cell] / max(variety[BASE], 1e-6)
        if share < LITTLE_VARIETY:
            parts.append(f"images from several seeds are alike ({share:.0%} of the base's variety)")
    return ", ".join(parts)


def table(samples: Samples) -> list[dict[str, Interval]]:
    """Each cell's measures and its score, with their intervals."""
    columns = {**samples.means, "score": samples.scores}
    return [
        {name: interval(values[:, cell]) for name, values in columns.items()}
        for cell in range(samples.scores.shape[1])
    ]
