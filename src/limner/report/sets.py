"""What the report says of each of several sets: images, share of the draws, validation loss, samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from limner.early_stopping import EACH


def set_rows(data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row for each set; none where there is one folder, or what is written of them is damaged.

    Args:
        data: What a run wrote of its images.
        rows: Its metrics.
    """
    result: list[dict[str, object]] = []
    for number, entry in enumerate(_sets(data)):
        losses = _losses(data, rows, number)
        share = entry.get("share")
        result.append(
            {
                "set": entry.get("name", ""),
                "trigger": entry.get("trigger", ""),
                "images": entry.get("images", ""),
                "draws": f"{share:.0%}" if isinstance(share, float) else "",
                "at first": f"{losses[0]:.4g}" if losses else "",
                "best": f"{min(losses):.4g}" if losses else "",
                "at the end": f"{losses[-1]:.4g}" if losses else "",
            }
        )
    return result


def set_of_prompt(data: Mapping[str, Any], index: int) -> str:
    """The name of the set whose trigger stands in a sample prompt; "" where none does."""
    sets, numbers = _sets(data), data.get("prompt_sets")
    number = numbers[index] if isinstance(numbers, list) and index < len(numbers) else None
    return str(sets[number].get("name", "")) if isinstance(number, int) and number < len(sets) else ""


def _sets(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    value = data.get("sets")
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _losses(data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], number: int) -> list[float]:
    """The mean validation loss of the images of a set, evaluation by evaluation."""
    numbers = data.get("held_out_sets")
    positions = (
        [position for position, n in enumerate(numbers) if n == number] if isinstance(numbers, list) else []
    )
    means: list[float] = []
    for row in rows:
        values = row.get(EACH)
        if positions and isinstance(values, list) and len(values) > max(positions):
            means.append(sum(values[position] for position in positions) / len(positions))
    return means
