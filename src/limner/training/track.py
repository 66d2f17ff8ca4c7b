"""Trackers: copies of the metrics for TensorBoard, W&B and trackio, through accelerate."""

import importlib
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from limner.errors import BadRecipe, first_line
from limner.files import write_text
from limner.nn import distributed
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir

Track = Callable[[Mapping[str, Any]], None]
"""Passes a row of metrics on."""

FAILURES = (ImportError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What a tracker may fail with, besides errors of its own."""
REMEDIES = {"wandb": "Run `wandb login`, or set WANDB_MODE=offline"}


@contextmanager
def tracked(
    recipe: Recipe | None, run: RunDir, reporter: Reporter | None = None, done: int = 0
) -> Iterator[Track]:
    """Give a function that passes rows of metrics on to the recipe's trackers, in the first process.

    ``metrics.jsonl`` is written anyway, so one that fails later is said and passed over. What was passed on
    is flushed however the run ends. A run that goes on is the same one to them. Of steps that a kill made it
    compute twice, TensorBoard shows the second time, W&B keeps the first, and trackio has both.

    Args:
        recipe: The wish; None: there is nothing to track.
        run: The run; trackers write below its ``track``. Their id of it is kept there.
        reporter: Hears of a tracker that fails.
        done: Steps that are saved; 0: the run begins, and has a new id.

    Raises:
        BadRecipe: A tracker is not installed, or cannot start.
    """
    names: list[Any] = list(recipe.track.with_) if recipe else []
    if recipe is None or not names or distributed.rank() != 0:
        yield lambda row: None
        return
    check(names)
    accelerator = _started(names, recipe, run, done)
    lost: list[str] = []

    def tell(act: Callable[[], Any]) -> None:
        try:
            act()
        except _failures(names) as error:
            if not lost:
                what = f"Trackers failed ({first_line(error)}); training and metrics.jsonl go on without."
                (reporter or Reporter()).line(what)
                lost.append(what)

    def track(row: Mapping[str, Any]) -> None:
        values = {key: value for key, value in row.items() if key not in ("step", "time")}
        if not lost:
            tell(lambda: accelerator.log(values, step=row["step"]))

    try:
        yield track
    finally:
        for each in accelerator.trackers:  # its end_training would also end the other processes' group
            tell(each.finish)


def _started(names: list[Any], recipe: Recipe, run: RunDir, done: int) -> Any:
    from accelerate import Accelerator

    place = run.track_path
    try:
        place.mkdir(parents=True, exist_ok=True)
        known = _id(run, done)
        for name in names:
            importlib.import_module(name)
        accelerator = Accelerator(log_with=names, project_dir=str(place))
        own = {
            "tensorboard": {"purge_step": done + 1},
            "trackio": {"name": f"{recipe.name}-{known}", "resume": "allow"},
            "wandb": {"dir": str(place), "id": known, "resume": "allow"},  # else where the command was typed
        }
        config = _flat(recipe.model_dump(mode="json"))
        accelerator.init_trackers(recipe.name, config=config, init_kwargs=own)
    except _failures(names) as error:
        remedy = next((REMEDIES[name] for name in names if name in REMEDIES), "Mend that")
        raise BadRecipe(
            f"track.with names {' and '.join(names)}, and there it cannot start: {first_line(error)}. "
            f"{remedy}, or leave it out."
        ) from error
    return accelerator


def _id(run: RunDir, done: int) -> str:
    """What trackers know the run by; kept as long as it goes on."""
    path = run.track_id_path
    kept = path.read_bytes() if done and path.is_file() else b""
    if re.fullmatch(rb"[0-9a-f]{12}\n", kept):
        return kept.decode().strip()
    made = secrets.token_hex(6)
    write_text(path, f"{made}\n")
    return made


def _failures(names: list[Any]) -> tuple[type[BaseException], ...]:
    """What trackers may raise: W&B's errors have a root of their own, ``wandb.Error``."""
    modules = (sys.modules.get(name) for name in names)
    roots = (vars(module).get("Error") for module in modules if module is not None)
    return (*FAILURES, *(root for root in roots if isinstance(root, type) and issubclass(root, Exception)))


def check(names: list[Any]) -> None:
    """Raise ``BadRecipe`` unless every tracker of ``names`` is installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(each) for each in get_available_trackers()}
    for name in names:
        if name not in there or name not in LOGGER_TYPE_TO_CLASS:
            raise BadRecipe(f'track.with names "{name}", which is not installed. Run `pip install {name}`.')


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
