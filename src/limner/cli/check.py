"""The verb ``check`` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import EVENTS, RECIPE, Option, taking
from limner.errors import BadUsage
from limner.imports import swiftly
from limner.target import changes, wish

CHECKING = (
    Option("--fix", "fix", Path, "Write a mended copy of the images into a new folder.", None, "FOLDER"),
    Option("--encoder", "encoder", str, "A vision model (folder or hub id) to judge variety by."),
    Option("--strict", "strict", bool, "Exit 1 for advice as well.", False),
)
"""What only this verb asks."""
SHOWN = 40
"""Findings on the terminal; the page has them all."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(check)


@taking((*RECIPE, *CHECKING))
def check(
    *,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder of images, or a recipe.toml.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the page. Left out: runs/<name>/check.", show_default=False),
    ] = None,
    given: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    events: Annotated[bool, EVENTS] = False,
) -> None:
    """Show what the model will see, and what is wrong with it.

    Exits 1 when there are problems. Nothing is changed; --fix writes into a new folder.
    """
    from limner import api
    from limner.cli.app import speaking
    from limner.cli.show import result
    from limner.reporter import counted

    fix, encoder, strict = (given.pop(option.key) for option in CHECKING)
    with speaking(as_json=as_json, events=events) as reporter:
        wished = wish(target, changes(given), None)
        if fix is not None and fix.exists():
            raise BadUsage(f"{fix} exists. Name a new folder with --fix.")
        with swiftly():
            from limner.checking.fix import mend

        page = out or _home(wished.out)
        done = api.check(wished.recipe, out=page, encoder=encoder, on_event=reporter.on_event)
        mended = mend(done, fix, reporter) if fix is not None else None
    value = done.plain() | ({"fixed": mended.plain()} if mended else {})
    lines = [_line(each) for each in done.findings if each.level != "note"]
    more = [f".. and {len(lines) - SHOWN} more on the page"] * (len(lines) > SHOWN)
    said = f"{counted(done.count('problem'), 'problem')}, advice: {done.count('advice')}"
    ends = [f"{counted(done.images, 'image')}, {done.left_out} left out: {said}, notes: {done.count('note')}"]
    ends += [f"Page:  {done.page}", f"Sheet: {done.sheet}"]
    ends += [mended.line()] if mended else []
    result(value, [*lines[:SHOWN], *more, *ends], as_json=as_json or events)
    if done.count("problem") or (strict and done.count("advice")):
        raise typer.Exit(1)


def _home(run: Path) -> Path:
    """Beside what a run leaves."""
    return run / "check"


def _line(each: Any) -> str:
    where = each.image or "the set"
    return f"{each.level:<7} {where}: {each.kind}: {each.reason}. {each.remedy}"
