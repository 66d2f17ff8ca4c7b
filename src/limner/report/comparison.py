"""Plan beside measurement: memory and time of a run."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from limner.files import human
from limner.nn.memory.plan import CAUSES
from limner.report.chart import series
from limner.report.markup import Html, escape
from limner.reporter import duration

LARGEST = 6
"""The most causes of memory that are named one by one."""
WARM = 2
"""Steps at the start of a run that are slower than the others, and are left out where there are more."""


def comparison(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], planned_bytes: int | None) -> Html:
    """Bars of what was planned and of what was measured; "" where either is missing.

    Args:
        plan: ``plan.json``.
        rows: Of ``metrics.jsonl``.
        planned_bytes: Planned peak of what ``bytes`` of the rows count, as the run itself compares them;
            None: that of the plan, which is right on a GPU.
    """
    parts = [_memory(plan, rows, planned_bytes), _time(plan, rows)]
    body = "".join(part for part in parts if part)
    return f'<div class="bars">{body}</div>' if body else ""


def _memory(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], planned_bytes: int | None) -> Html:
    device = plan.get("device")
    on_card = isinstance(device, Mapping) and device.get("kind") != "cpu"
    estimate = planned_bytes or (_number(plan.get("reserved_bytes")) if on_card else None)
    peak = max((value for _, value in series(rows, "bytes")), default=None)
    if not estimate or not peak:
        return ""
    name = "Memory of the GPU, at most" if on_card else "Memory of the process, at most"
    legend = _causes(plan)
    return _pair(name, (estimate, peak), (human(round(estimate)), human(round(peak))), legend)


def _time(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Html:
    estimate = _number(plan.get("seconds_per_step"))
    values = [value for _, value in series(rows, "seconds")]
    if not estimate or not values:
        return ""
    middle = statistics.median(values[WARM:] or values)
    step = _pair("Seconds per step, median", (estimate, middle), (f"{estimate:.3g} s", f"{middle:.3g} s"), "")
    total = estimate * len(values), sum(values)
    return step + _pair(f"{len(values)} steps", total, (duration(total[0]), duration(total[1])), "")


def _pair(name: str, values: tuple[float, float], labels: tuple[str, str], note: str) -> Html:
    """Two bars, the longer one over the whole width, and how they differ."""
    longest = max(values)
    change = f"{values[1] / values[0] - 1:+.0%}"
    rows = [f"<h3>{escape(name)}</h3>"]
    for label, value, text in zip(("planned", "measured"), values, labels, strict=True):
        width = f"{100 * value / longest:.1f}%"
        kind = ' class="plan"' if label == "planned" else ""
        text = f"{text} ({change})" if label == "measured" else text
        rows.append(
            f'<span>{label}</span><div class="bar"><i{kind} style="width:{width}"></i></div>'
            f"<span>{escape(text)}</span>"
        )
    return "".join(rows) + (f'<p class="note">{escape(note)}</p>' if note else "")


def _causes(plan: Mapping[str, Any]) -> str:
    """What the planned memory is for in the phase that takes the most, largest first."""
    peaks, causes = plan.get("peak_bytes"), plan.get("causes")
    if not isinstance(peaks, Mapping) or not isinstance(causes, Mapping):
        return ""
    phase = max(peaks, key=lambda name: _number(peaks[name]) or 0, default="")
    parts = causes.get(phase)
    if not isinstance(parts, Mapping):
        return ""
    sizes = {CAUSES.get(name, str(name)): size for name, value in parts.items() if (size := _number(value))}
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    texts = [f"{name} {human(round(size))}" for name, size in largest[:LARGEST]]
    if rest := sum(size for _, size in largest[LARGEST:]):
        texts.append(f"others {human(round(rest))}")
    return f"Planned of it: {', '.join(texts)}." if texts else ""


def _number(value: object) -> float | None:
    """A number above 0."""
    return float(value) if type(value) in (int, float) and value > 0 else None  # pyright: ignore[reportOperatorIssue, reportArgumentType]
