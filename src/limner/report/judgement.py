"""What ``limner judge`` measured of a run, by step: likeness, prompt-following and leak."""

import math
from collections.abc import Mapping
from typing import Any

from limner.report.chart import MAX_VALUE, NARROW, WIDTH, Frame, both, drawing, framed
from limner.report.chart import coordinates as at
from limner.report.markup import Html

MEASURES = {
    "likeness": "likeness to the training images",
    "prompt": "prompt-following",
    "leak": "leak: what prompts without the trigger change by",
}
"""Measure -> what its line is called."""

Point = tuple[float, float, float, float]
"""Step, mean, and the ends of its interval."""


def judgement(record: object) -> tuple[Html, str]:
    """The chart with its legend, and a note; nothing where less than two steps were judged.

    Args:
        record: ``judge.json``, of any shape.
    """
    cells = record.get("cells") if isinstance(record, Mapping) else None
    cells = [cell for cell in cells if isinstance(cell, Mapping)] if isinstance(cells, list) else []
    strengths = {strength for cell in cells if (strength := _number(cell.get("strength")))}
    if not strengths:
        return "", ""
    strength = min(strengths, key=lambda value: abs(value - 1))
    lines = {name: _points(cells, name, strength) for name in MEASURES}
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return "", ""
    legend = "".join(
        f'<span class="{name}"><i></i>{text}</span>' for name, text in MEASURES.items() if name in lines
    )
    charts = both(_chart(lines, "judge", WIDTH), _chart(lines, "judge-narrow", NARROW))
    encoder = str(record.get("encoder", "")) if isinstance(record, Mapping) else ""
    note = f"Strength {strength:g}; step 0 is the base. Bands are intervals of 95 %. Measured by {encoder}."
    return f'<div class="legend">{legend}</div><div class="wide">{charts}</div>', note


def _points(cells: list[Mapping[str, Any]], name: str, strength: float) -> list[Point]:
    """Of the base and of every step at a strength, by step."""
    points = []
    for cell in cells:
        step, value = _number(cell.get("step")), cell.get(name)
        if step is None or not isinstance(value, Mapping) or cell.get("strength") not in (0, strength):
            continue
        numbers = [_number(value.get(key)) for key in ("mean", "low", "high")]
        if None not in numbers:
            points.append((step, *numbers))
    return sorted(points)


def _chart(lines: Mapping[str, list[Point]], name: str, width: int) -> Html:
    values = [point for points in lines.values() for point in points]
    low, high = min(0.0, *(point[2] for point in values)), max(point[3] for point in values)
    steps = min(point[0] for point in values), max(point[0] for point in values)
    frame = framed(steps, (low, high + 0.05 * (high - low or 1)), width)
    parts = [_band(kind, points, frame) for kind, points in lines.items()]
    parts += [
        f'<polyline class="{kind}" points="{at([point[:2] for point in points], frame)}"/>'
        for kind, points in lines.items()
    ]
    return drawing(frame, parts, (name, "Likeness, prompt-following and leak by step"))


def _band(kind: str, points: list[Point], frame: Frame) -> Html:
    outline = [(point[0], point[3]) for point in points] + [(point[0], point[2]) for point in points[::-1]]
    return f'<polygon class="band {kind}" points="{at(outline, frame)}"/>'


def _number(value: object) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MAX_VALUE:  # pyright: ignore[reportArgumentType]
        return None
    return float(value)  # pyright: ignore[reportArgumentType]
