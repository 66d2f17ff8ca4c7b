"""Evaluations: the validation loss after a step, and what early stopping makes of it."""

import math
from collections.abc import Mapping
from typing import Any

from limner.early_stopping import EACH, early_stop
from limner.errors import Diverged
from limner.events import Validated
from limner.nn import distributed
from limner.reporter import Reporter
from limner.training.state import TrainState


def evaluate(state: TrainState, step: int, reporter: Reporter) -> dict[str, Any]:
    """The validation loss after ``step`` steps, and that of each image, as entries of a row.

    Raises:
        Diverged: It is not finite, so that this state must not be saved.
    """
    losses = state.room_for(state.model.validation_losses, step, reporter)
    loss = sum(losses) / len(losses)
    if math.isfinite(loss):
        reporter.event(Validated(step=step, loss=loss))
        return {"held_out": loss, EACH: [round(value, 6) for value in losses]}
    source, denoiser = state.resolved.source, state.resolved.family.denoiser
    if step:
        remedy = "Halve train.learning_rate, and run again: it goes on from the checkpoint before."
    else:
        cause = f"The {denoiser} of {source.name} is damaged, or too large for limits.compute_dtype."
        remedy = f"{cause} {source.again}"
    raise Diverged(f"After step {step} the validation loss is {loss}. {remedy}")


def judge(state: TrainState, row: Mapping[str, Any], reporter: Reporter) -> tuple[bool, bool]:
    """Whether a step's evaluation is the best so far and must be kept, and whether it ends the run.

    Args:
        state: The run. Without ``train.patience`` nothing is kept for it, and it ends with its last step.
        row: The step's measurements, which the metrics hold by now.
        reporter: Is told why the run ends.
    """
    train_config = state.resolved.recipe.train
    if train_config.patience is None or "held_out" not in row:
        return False, False
    is_best = ends = False
    if distributed.rank() == 0:
        rows = state.run.metrics()
        before = [
            other["held_out"] for other in rows if 0 < other["step"] < row["step"] and "held_out" in other
        ]
        is_best = row["held_out"] < min(before, default=math.inf)
        end = early_stop(rows, train_config.patience)
        ends = end is not None
        if end and row["step"] < train_config.steps:
            reporter.line(end.text)
    return distributed.any_rank(is_best), distributed.any_rank(ends)
