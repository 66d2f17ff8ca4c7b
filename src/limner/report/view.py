"""A run under way, as a notebook shows it: how far it is, its curve, and its samples as they appear."""

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from limner.errors import BadData
from limner.events import Done
from limner.files import human
from limner.report.chart import curves
from limner.report.markup import data_url
from limner.report.pages import render
from limner.report.sheet import Column, columns
from limner.reporter import duration
from limner.run_folder import RunDir
from limner.status import RunStatus, read_status

COLUMNS, PROMPTS, SIDE = 6, 8, 192
"""The most steps and prompts that are shown, and the largest side of an image, in pixels."""


@dataclass(frozen=True)
class RunView:
    """A part of a page, which Jupyter and Colab show by themselves."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def view(folder: Done | str | Path) -> RunView:
    """What a run has come to: how far it is, its loss curve, its samples. Notebooks show it by themselves.

    Look as often as you like, while it runs too: ``screen.update(limner.view("runs/photos"))``.

    Args:
        folder: A run that is done, or a run folder, which may be half finished or not there yet. What cannot
            be read is left out until the next look.
    """
    run = RunDir(folder.path if isinstance(folder, Done) else folder)
    try:
        prompts = run.prompts()
    except BadData:  # written a moment later, or damaged, which the report says
        prompts = []
    steps = columns(run.samples())
    if len(steps) > COLUMNS:
        steps = [steps[0], *steps[1 - COLUMNS :]]
    indices = sorted({index for column in steps for index in column.images})[:PROMPTS]
    html = render(
        "view.html",
        facts=_facts(read_status(run.path)),
        curve=Markup(curves(run.metrics(), "view")),
        names=[column.name for column in steps],
        rows=[
            {
                "prompt": prompts[index] if index < len(prompts) else f"prompt {index}",
                "images": [_url(column, index) for column in steps],
            }
            for index in indices
        ],
    )
    return RunView(html)


def _facts(status: RunStatus | None) -> list[str]:
    """How far a run is, in pieces for one line."""
    if status is None:
        return ["not begun"]
    facts = [status.phase or status.state]
    if status.total:
        facts.append(f"{status.done} of {status.total}")
    if status.loss is not None:
        facts.append(f"loss {status.loss:.4f}")
    if status.validation_loss is not None:
        facts.append(f"validation loss {status.validation_loss:.4f}")
    if status.seconds_per_step is not None:
        facts.append(f"{status.seconds_per_step:.2g} s/step")
    if status.bytes is not None:
        plan = f", {human(status.planned_bytes)} planned" if status.planned_bytes else ""
        facts.append(f"most memory {human(status.bytes)}{plan}")
    if status.seconds_left is not None and status.state == "running":
        facts.append(f"{duration(status.seconds_left)} left")
    return facts


def _url(column: Column, index: int) -> str:
    path = column.images.get(index)
    return (data_url(path, SIDE) if path else None) or ""
