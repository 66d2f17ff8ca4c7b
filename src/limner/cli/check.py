"""The verb ``check`` on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import Events, Json, Option, example, recipe_options, taking
from limner.cli.session import session
from limner.errors import BadUsage
from limner.imports import swiftly
from limner.target import overrides_from, request_for

CHECKING = (
    Option(
        "--fix",
        "fix",
        Path,
        "Write a copy of the images with faults fixed into a new folder.",
        None,
        "FOLDER",
    ),
    Option(
        "--encoder",
        "encoder",
        str,
        "A vision encoder (CLIP, DINO ..; folder or hub id) to measure variety with.",
    ),
    Option("--strict", "strict", bool, "Exit 1 for advice as well.", False),
    Option("--exit-zero", "exit_zero", bool, "Exit 0 also when there are problems.", False),
)
"""What only this verb asks."""
MOST_LINES = 40
"""Lines on the terminal; the page has them all."""
MOST_NAMES = 3
"""Images that a line names."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner check photos/ --base flux-dev --fix photos-fixed/"))(check)


@taking((*recipe_options("check"), *CHECKING))
def check(
    *,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder of images, or a recipe.toml.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the page. Left out: runs/<name>/check.", show_default=False),
    ] = None,
    options: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Check a dataset: show what the model will see, and list the faults.

    Exits 1 when there are problems, unless --exit-zero. Nothing is changed; --fix writes into a new folder.
    """
    from limner import api
    from limner.cli.show import result
    from limner.reporter import counted

    fix, encoder, strict, exit_zero = (options.pop(option.key) for option in CHECKING)
    if strict and exit_zero:
        raise BadUsage("--strict and --exit-zero do not go together. Leave one of them out.")
    with session(as_json=as_json, events=events) as reporter:
        request = request_for(target, overrides_from(options), None)
        if fix is not None and fix.exists():
            raise BadUsage(f"{fix} exists. Name a new folder with --fix.")
        with swiftly():
            from limner.checking.fix import write_fixed_copy

        page = out or _home(request.out)
        report = api.check(request.recipe, out=page, encoder=encoder, on_event=reporter.on_event)
        fixes = write_fixed_copy(report, fix, reporter) if fix is not None else None
    value = report.plain() | ({"fixed": fixes.plain()} if fixes else {})
    lines = _lines([finding for finding in report.findings if finding.level != "note"])
    rest = [f".. and {len(lines) - MOST_LINES} more on the page"] * (len(lines) > MOST_LINES)
    counts = f"{counted(report.count('problem'), 'problem')}, advice: {report.count('advice')}"
    counts += f", notes: {report.count('note')}"
    ends = [f"{counted(report.images, 'image')}, {report.left_out} left out: {counts}"]
    ends += [f"Page:  {report.page}", f"Sheet: {report.sheet}"]
    ends += [fixes.line()] if fixes else []
    result(value, [*lines[:MOST_LINES], *rest, *ends], as_json=as_json or events)
    if not exit_zero and (report.count("problem") or (strict and report.count("advice"))):
        raise typer.Exit(1)


def _home(run: Path) -> Path:
    """Beside what a run leaves."""
    return run / "check"


def _lines(findings: Sequence[Any]) -> list[str]:
    """A line for each finding; what holds alike of several images is one line."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for finding in findings:
        words = finding.level, finding.kind, finding.reason, finding.remedy
        groups.setdefault(words, []).append(finding.image or "the set")
    return [
        f"{level:<7} {_subject(images)}: {kind}: {reason}. {remedy}"
        for (level, kind, reason, remedy), images in groups.items()
    ]


def _subject(images: Sequence[str]) -> str:
    if len(images) <= MOST_NAMES:
        return ", ".join(images)
    return f"{', '.join(images[:MOST_NAMES])} and {len(images) - MOST_NAMES} more"
