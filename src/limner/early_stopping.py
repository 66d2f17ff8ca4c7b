"""Early stopping: whether a run has ended before its last step, and which step it ends in. Loads no torch.

Everything follows from the rows of ``metrics.jsonl``, so a resumed run decides as one that never stopped.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limner.run_folder import RunDir

EACH = "held_out_each"
"""Of a row: the validation loss of each image, in their fixed order."""


@dataclass(frozen=True)
class EarlyStop:
    """Why a run ends before its last step."""

    step: int
    """Steps taken."""
    best: int
    """The step with the least validation loss."""
    evaluations: int
    """Evaluations since that were no better."""
    excess: float
    """How far the validation loss lies above that of the best step."""
    interval: float | None
    """Half of the 95 % interval of ``excess`` over the images, which are paired; None for a single image."""

    @property
    def text(self) -> str:
        """For people, one sentence."""
        width = "" if self.interval is None else f" ± {self.interval:.2g}"
        return (
            f"Early stopping at step {self.step}: {self.evaluations} evaluations without a better validation "
            f"loss (now {self.excess:+.3g}{width} beside step {self.best})."
        )


def early_stop(rows: Sequence[Mapping[str, Any]], patience: int | None) -> EarlyStop | None:
    """Whether the evaluations end a run; None where they do not.

    Noise and timesteps of an evaluation are fixed, so a lower mean is a better model on these images, however
    small the difference. The interval says how far that carries to other images.

    Args:
        rows: Measurements in the order of their steps. The base, step 0, does not count.
        patience: Evaluations without a better loss that end the run (``train.patience``); None: none do.
    """
    evaluations = [row for row in rows if row["step"] > 0 and row.get("held_out") is not None]
    if patience is None or not evaluations:
        return None
    best = min(evaluations, key=lambda row: (row["held_out"], row["step"]))
    since = len(evaluations) - 1 - evaluations.index(best)
    if since < patience:
        return None
    last = evaluations[-1]
    return EarlyStop(
        last["step"], best["step"], since, last["held_out"] - best["held_out"], _interval(best, last)
    )


def _interval(best: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    before, now = best.get(EACH), last.get(EACH)
    if not (isinstance(before, list) and isinstance(now, list)) or len(before) != len(now) or len(now) < 2:
        return None
    spread = statistics.stdev(b - a for a, b in zip(before, now, strict=True))
    return 1.96 * spread / math.sqrt(len(now))


def stopped_early(run: RunDir, patience: int | None, step: int) -> EarlyStop | None:
    """Whether a run that has taken ``step`` steps has ended with them, before the last of its recipe."""
    return early_stop([row for row in run.metrics() if row["step"] <= step], patience)


def final_step(run: RunDir, patience: int | None, step: int) -> int:
    """The step whose weights a run ends in, of ``step`` that it took: the best one, where it has patience."""
    best = run.best() if patience is not None else None
    return step if best is None else best
