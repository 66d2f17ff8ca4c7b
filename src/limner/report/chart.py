"""The loss curve as an SVG in the colours of the page: raw faint, smoothed, validation with its best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

Point = tuple[float, float]
"""(step, loss)"""
Axis = tuple[float, float, float, float]
"""Ends in values; pixels of a unit, and of the first end."""

WIDTH, NARROW, HEIGHT = 880, 400, 300
"""Pixels: on a screen, on a phone, and of both."""
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 34
MAX_POINTS = 600
"""Points drawn of one curve; more are merged, which no screen of this width could show."""
MAX_VALUE = 1e12
"""No step or loss; such a row is damaged."""
OUTLIERS = 0.02
"""Share of raw points that may leave the frame at each side, so that no spike flattens the rest."""


@dataclass(frozen=True)
class Frame:
    """Where the values of a chart stand in it."""

    width: int
    x: Axis
    y: Axis


def curves(rows: Sequence[Mapping[str, Any]], name: str = "frame") -> str:
    """The curve in two sizes, of which a page shows the one that fits; "" where there is nothing to draw.

    Args:
        rows: The rows of ``metrics.jsonl``.
        name: Tells the charts of one page apart: letters and digits.
    """
    return both(curve(rows, name), curve(rows, f"{name}-narrow", NARROW))


def both(wide: str, narrow: str) -> str:
    """Two sizes of one chart as a part of a page."""
    return f'<div class="broad">{wide}</div><div class="narrow">{narrow}</div>' if wide else ""


def curve(rows: Sequence[Mapping[str, Any]], name: str = "frame", width: int = WIDTH) -> str:
    """The chart of the rows of ``metrics.jsonl``, or "" where there is nothing to draw.

    Args:
        rows: The rows.
        name: Tells the charts of one page apart: letters and digits.
        width: In pixels.
    """
    raw, validation = series(rows, "loss"), series(rows, "held_out")
    if len(raw) + len(validation) < 2:
        return ""
    mean = smooth(raw)
    steps = [step for step, _ in (*raw, *validation)]
    low, high = _range(raw, [loss for _, loss in (*mean, *validation)])
    frame = framed((min(0, *steps), max(steps)), (low, high), width)
    return drawing(
        frame,
        (_line(raw, "raw", frame), _line(mean, "mean", frame), _line(validation, "held", frame)),
        (name, "Loss by step"),
        _marks(validation, frame),
    )


def framed(steps: tuple[float, float], values: tuple[float, float], width: int) -> Frame:
    """The frame of a chart between the ends of both axes."""
    return Frame(width, _axis(*steps, LEFT, width - RIGHT), _axis(*values, HEIGHT - BOTTOM, TOP))


def drawing(frame: Frame, lines: Sequence[str], names: tuple[str, str], marks: Sequence[str] = ()) -> str:
    """An SVG of lines on a grid.

    Args:
        frame: Where they stand.
        lines: Cut off at the frame.
        names: Of the frame, which tells the charts of one page apart, and for people who hear the page.
        marks: Over the lines.
    """
    name, label = names
    parts = [
        f'<svg class="chart" viewBox="0 0 {frame.width} {HEIGHT}" role="img" aria-label="{label}">',
        f'<clipPath id="{name}"><rect x="{LEFT}" y="{TOP - 6}" width="{frame.width - LEFT - RIGHT + 6}" '
        f'height="{HEIGHT - TOP - BOTTOM + 6}"/></clipPath>',
        *_grid(frame),
        f'<g clip-path="url(#{name})">',
        *lines,
        "</g>",
        *marks,
        "</svg>",
    ]
    return "".join(parts)


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(step, value) of every row that has a finite number ``name``, by step."""
    points = [(row["step"], row[name]) for row in rows if type(row.get(name)) in (int, float)]
    return sorted((float(step), float(value)) for step, value in points if abs(step) < MAX_VALUE > abs(value))


def smooth(points: Sequence[Point]) -> list[Point]:
    """The mean of the twentieth of the points around each, fewer at the ends; it does not lag behind."""
    half = len(points) // 40
    sums = list(accumulate((loss for _, loss in points), initial=0.0))
    out = []
    for index, (step, _) in enumerate(points):
        start, end = max(0, index - half), min(len(points), index + half + 1)
        out.append((step, (sums[end] - sums[start]) / (end - start)))
    return out


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high``, some ``count`` of them."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(raw: Sequence[Point], always: Sequence[float]) -> tuple[float, float]:
    """The losses at the bottom and top: all that is ``always`` shown, and the raw points but for outliers."""
    values = sorted(loss for _, loss in raw)
    cut = int(len(values) * OUTLIERS)
    inner = [*values[cut : len(values) - cut], *always]
    low, high = min(inner), max(inner)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    return low, high, (end - start) / ((high - low) or 1.0), start


def _at(axis: Axis, value: float) -> float:
    low, _, scale, start = axis
    return round(start + (value - low) * scale, 1)


def _grid(frame: Frame) -> list[str]:
    out = []
    for value in ticks(*frame.y[:2]):
        y, end = _at(frame.y, value), frame.width - RIGHT
        out.append(f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{y}" y2="{y}"/>')
        out.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{value:.4g}</text>')
    last, count = frame.x[1] or 1, 6 if frame.width > NARROW else 4
    for step in (tick for tick in ticks(0, last, count) if tick == int(tick)):
        out.append(f'<text x="{_at(frame.x, step)}" y="{HEIGHT - 10}" text-anchor="middle">{step:.0f}</text>')
    return out


def _line(points: Sequence[Point], kind: str, frame: Frame) -> str:
    return f'<polyline class="{kind}" points="{coordinates(_thin(points), frame)}"/>' if points else ""


def coordinates(points: Sequence[Point], frame: Frame) -> str:
    """Points as SVG writes those of a line."""
    return " ".join(f"{_at(frame.x, step)},{_at(frame.y, value)}" for step, value in points)


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most about ``MAX_POINTS`` points: of each stretch the least and the greatest, in order."""
    share = -(-2 * len(points) // MAX_POINTS)
    if share <= 2:
        return list(points)
    out: list[Point] = []
    for start in range(0, len(points), share):
        stretch = points[start : start + share]
        out.extend(sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}))
    return out


def _marks(validation: Sequence[Point], frame: Frame) -> list[str]:
    """A dot for each validation loss, the best one ringed and named."""
    if not validation:
        return []
    out = [
        f'<circle class="dot" cx="{_at(frame.x, step)}" cy="{_at(frame.y, loss)}" r="3">'
        f"<title>step {step:.0f}: validation {loss:.4g}</title></circle>"
        for step, loss in _thin(validation)
    ]
    step, loss = min(validation, key=lambda point: point[1])
    cx, cy = _at(frame.x, step), _at(frame.y, loss)
    anchor = "end" if cx > frame.width * 0.8 else "start" if cx < frame.width * 0.2 else "middle"
    below = cy + 24 if cy < HEIGHT - BOTTOM - 26 else cy - 14
    out.append(f'<circle class="best" cx="{cx}" cy="{cy}" r="6"/>')
    words = f"best {loss:.4g} at step {step:.0f}"
    out.append(f'<text class="best-label" x="{cx}" y="{below}" text-anchor="{anchor}">{words}</text>')
    return out
