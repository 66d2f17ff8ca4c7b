"""Metrics: the validation loss after a step, what early stopping makes of it, and copies for trackers.

Trackers are TensorBoard, W&B and trackio, through accelerate.
"""

import importlib
import math
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from limner.early_stopping import EACH, early_stop
from limner.errors import BadRecipe, Diverged, first_line
from limner.events import StepDone, Validated
from limner.files import write_text
from limner.nn import distributed
from limner.nn.loop import Step
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.monitor import loss_scale, peak

if TYPE_CHECKING:
    from limner.training.state import TrainState


def row_of(step: Step, seconds: float, state: "TrainState") -> dict[str, Any]:
    """What ``metrics.jsonl`` says of a step."""
    return {
        "step": step.number,
        "loss": step.loss,
        "norm": step.norm,
        "learning_rate": state.model.full_rate * step.rate,
        "seconds": round(seconds, 4),
        "bytes": peak(state.resolved.device),
        "time": round(time.time(), 3),
        **loss_scale(state.scaler, step.repeats),
    }


def step_done(row: Mapping[str, Any], steps: int) -> StepDone:
    """A row as whoever follows the run hears it, of so many steps."""
    names = ("step", "loss", "norm", "learning_rate", "seconds", "bytes")
    return StepDone(steps=steps, **{name: row[name] for name in names})


def evaluate(state: "TrainState", step: int, reporter: Reporter) -> dict[str, Any]:
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


def judge(state: "TrainState", row: Mapping[str, Any], reporter: Reporter) -> tuple[bool, bool]:
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


Track = Callable[[Mapping[str, Any]], None]
"""Passes a row of metrics on."""

FAILURES = (ImportError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What a tracker may fail with, besides errors of its own."""
REMEDIES = {"wandb": "Run `wandb login`, or set WANDB_MODE=offline"}


@contextmanager
def tracked(
    recipe: Recipe | None, run: RunDir, reporter: Reporter | None = None, start_step: int = 0
) -> Iterator[Track]:
    """Give a function that passes rows of metrics on to the recipe's trackers, in the first process.

    ``metrics.jsonl`` is written anyway, so one that fails later is said and passed over. What was passed on
    is flushed however the run ends. A run that goes on is the same one to them. Of steps that a kill made it
    compute twice, TensorBoard shows the second time, W&B keeps the first, and trackio has both.

    Args:
        recipe: The wish; None: there is nothing to track.
        run: The run; trackers write below its ``track``. Their id of it is kept there.
        reporter: Hears of a tracker that fails.
        start_step: Steps that are saved; 0: the run begins, and has a new id.

    Raises:
        BadRecipe: A tracker is not installed, or cannot start.
    """
    names: list[Any] = list(recipe.track.with_) if recipe else []
    if recipe is None or not names or distributed.rank() != 0:
        yield lambda row: None
        return
    require_trackers(names)
    accelerator = _started(names, recipe, run, start_step)
    failures: list[str] = []

    def tell(act: Callable[[], Any]) -> None:
        try:
            act()
        except _failures(names) as error:
            if not failures:
                message = f"Trackers failed ({first_line(error)}); training and metrics.jsonl go on without."
                (reporter or Reporter()).line(message)
                failures.append(message)

    def track(row: Mapping[str, Any]) -> None:
        values = {key: value for key, value in row.items() if key not in ("step", "time", EACH)}
        if not failures:
            tell(lambda: accelerator.log(values, step=row["step"]))

    try:
        yield track
    finally:
        for tracker in accelerator.trackers:  # its end_training would also end the other processes' group
            tell(tracker.finish)


def _started(names: list[Any], recipe: Recipe, run: RunDir, start_step: int) -> Any:
    from accelerate import Accelerator

    folder = run.track_path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_id = _id(run, start_step)
        for name in names:
            importlib.import_module(name)
        accelerator = Accelerator(log_with=names, project_dir=str(folder))
        tracker_options = {
            "tensorboard": {"purge_step": start_step + 1},
            "trackio": {"name": f"{recipe.name}-{run_id}", "resume": "allow"},
            # without a folder, W&B writes where the command was typed
            "wandb": {"dir": str(folder), "id": run_id, "resume": "allow"},
        }
        config = _flat(recipe.model_dump(mode="json"))
        accelerator.init_trackers(recipe.name, config=config, init_kwargs=tracker_options)
    except _failures(names) as error:
        remedy = next((REMEDIES[name] for name in names if name in REMEDIES), "Mend that")
        raise BadRecipe(
            f"track.with names {' and '.join(names)}, and there it cannot start: {first_line(error)}. "
            f"{remedy}, or leave it out."
        ) from error
    return accelerator


def _id(run: RunDir, start_step: int) -> str:
    """What trackers know the run by; kept as long as it goes on."""
    path = run.track_id_path
    content = path.read_bytes() if start_step and path.is_file() else b""
    if re.fullmatch(rb"[0-9a-f]{12}\n", content):
        return content.decode().strip()
    run_id = secrets.token_hex(6)
    write_text(path, f"{run_id}\n")
    return run_id


def _failures(names: list[Any]) -> tuple[type[BaseException], ...]:
    """What trackers may raise: W&B's errors have a root of their own, ``wandb.Error``."""
    modules = (sys.modules.get(name) for name in names)
    roots = (vars(module).get("Error") for module in modules if module is not None)
    return (*FAILURES, *(root for root in roots if isinstance(root, type) and issubclass(root, Exception)))


def require_trackers(names: list[Any]) -> None:
    """Raise ``BadRecipe`` unless every tracker of ``names`` is installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in available or name not in LOGGER_TYPE_TO_CLASS:
            raise BadRecipe(f'track.with names "{name}", which is not installed. Run `pip install {name}`.')


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
