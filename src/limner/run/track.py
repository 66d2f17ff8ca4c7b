"""Trackers: copies of the metrics for TensorBoard, W&B and trackio, through accelerate."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from limner.errors import BadRecipe
from limner.nn import processes
from limner.recipe.schema import Recipe
from limner.run.rundir import RunDir


@contextmanager
def tracked(recipe: Recipe, run: RunDir) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that passes rows of metrics on to the recipe's trackers, in the first process.

    ``metrics.jsonl`` is written anyway. What was passed on is flushed however the run ends.

    Raises:
        BadRecipe: A tracker is not installed.
    """
    names: list[Any] = list(recipe.track.with_)
    if not names or processes.rank() != 0:
        yield lambda row: None
        return
    check(names)
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=names, project_dir=str(run.path / "track"))
    accelerator.init_trackers(recipe.name, config=_flat(recipe.model_dump(mode="json")))

    def track(row: Mapping[str, Any]) -> None:
        values = {key: value for key, value in row.items() if key not in ("step", "time")}
        accelerator.log(values, step=row["step"])

    try:
        yield track
    finally:
        for each in accelerator.trackers:  # its end_training would also end the other processes' group
            each.finish()


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
