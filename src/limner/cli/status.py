"""``limner status`` and ``limner runs``: what runs are doing, from outside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.errors import BadUsage
from limner.run_folder import RUNS

if TYPE_CHECKING:
    from limner.status import RunStatus

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(status)
    app.command()(runs)
    app.command()(ask)


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], *, as_json: Json = False
) -> None:
    """Say what a run is doing, or how it ended.

    From status.json in its folder, which a run writes every 2 s. Example: limner status runs/cat
    """
    from limner.cli.show import result
    from limner.status import read_status

    found = read_status(run)
    if found is None:
        raise BadUsage(f"{run} says nothing of a run. Name a run folder, or start one: limner train FOLDER")
    result(found, [line_of(run, found), *([found.line] if found.line else [])], as_json=as_json)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where run folders lie.")] = RUNS,
    *,
    as_json: Json = False,
) -> None:
    """List runs, and what each is doing.

    Example: limner runs
    """
    from limner.cli.show import result
    from limner.status import runs_in

    found = runs_in(folder)
    lines = [line_of(path, item) for path, item in found.items()] or [f"No runs in {folder}."]
    result({"runs": {str(path): item for path, item in found.items()}}, lines, as_json=as_json)


def line_of(run: Path, item: "RunStatus") -> str:
    """A run in a line: ``runs/cat: running, Training 30/300, loss 0.31, memory 9.1 GB of 9.6 GB planned``."""
    from limner.files import human
    from limner.reporter import duration

    parts = [item.state]
    if item.phase:
        parts.append(f"{item.phase} {item.done}/{item.total}" if item.total else item.phase)
    elif item.step is not None:
        parts.append(f"step {item.step} of {item.steps}")
    parts += [f"loss {item.loss:.4f}"] if item.loss is not None else []
    if item.state == "running":
        parts += [f"{item.seconds_per_step:.2g} s per step"] if item.seconds_per_step else []
        plan = f" of {human(item.planned_bytes)} planned" if item.planned_bytes else ""
        parts += [f"memory {human(item.bytes_now)}{plan}"] if item.bytes_now else []
        parts += [f"{duration(item.seconds_left)} left"] if item.seconds_left is not None else []
    return f"{run}: {', '.join(parts)}"


def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="save, export (a LoRA of the step), sample, or stop (which saves, too)."
        ),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Ask a run for something that it does between two steps.

    By a file in ask/ of the run folder, which the run removes when it is done.

    Example: limner ask runs/cat stop
    """
    from limner.cli.show import result
    from limner.run_folder import RunDir
    from limner.status import Requests

    Requests(RunDir(run)).send(kind)
    result({"run": run, "asked": kind}, [f"Asked. See what it does: limner status {run}"], as_json=as_json)
