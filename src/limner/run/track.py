"""Trackers: copies of the metrics for TensorBoard, W&B and trackio, through accelerate."""

from collections.abc import Mapping
from typing import Any

from limner.errors import BadRecipe
from limner.recipe.schema import Recipe
from limner.run.rundir import RunDir


class Trackers:
    """The trackers that a recipe names; with none it does nothing. ``metrics.jsonl`` is written anyway."""

    def __init__(self, recipe: Recipe, run: RunDir) -> None:
        self._accelerator: Any = None
        names: list[Any] = list(recipe.track.with_)
        if not names:
            return
        from accelerate import Accelerator
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        there = {str(each) for each in get_available_trackers()}
        for name in names:
            if name not in there or name not in LOGGER_TYPE_TO_CLASS:
                raise BadRecipe(
                    f'track.with names "{name}", which is not installed. Run `pip install {name}`.'
                )
        self._accelerator = Accelerator(log_with=names, project_dir=str(run.path / "track"), cpu=True)
        self._accelerator.init_trackers(recipe.name, config=_flat(recipe.model_dump(mode="json")))

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row of metrics on."""
        if self._accelerator is not None:
            values = {key: value for key, value in row.items() if key not in ("step", "time")}
            self._accelerator.log(values, step=row["step"])

    def close(self) -> None:
        """Flush."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
