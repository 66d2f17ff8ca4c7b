"""The verb ``plan`` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import EVENTS, RECIPE, Option, taking
from limner.errors import BadUsage, DoesNotFit
from limner.imports import swiftly
from limner.target import RUNS, Wish, changes, template, wish

PLANNING = (
    Option("--card", "card", str, 'Plan for this card: "RTX 3060", "4090", "A100".'),
    Option("--price", "price", float, "US dollars per hour of a rented device."),
    Option("--exact", "exact", bool, "Trace every block, though they repeat.", False),
    Option("--calibrate", "calibrate", bool, "First measure this machine's device: half a minute.", False),
)
"""What only this verb asks."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(plan)


@taking((*RECIPE, *PLANNING))
def plan(
    *,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TARGET]",
            help="A folder of images, a recipe.toml, or a run folder. Left out: --base and its presets.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder. Left out: runs/<name>.", show_default=False)
    ] = None,
    given: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    events: Annotated[bool, EVENTS] = False,
) -> None:
    """Say what a run needs, and how it runs fastest.

    Fetches configs at most, needs no GPU: --vram 12GB plans for another card. Exits 1 when nothing fits.
    """
    from limner.cli.app import speaking
    from limner.cli.show import result
    from limner.planning.describe import lines
    from limner.planning.planner import keep
    from limner.planning.planner import plan as run
    from limner.run_folder import RunDir

    asked = {option.key: given.pop(option.key) for option in PLANNING}
    if target is None and given.get("base") is None and not asked["calibrate"]:
        raise BadUsage("Name a folder of images, a recipe.toml, a run folder, or a model with --base.")
    if asked["price"] is not None and asked["price"] < 0:
        raise BadUsage(f"--price is {asked['price']:g}; it must be at least 0 dollars per hour.")
    as_json = as_json or events
    with speaking(as_json=as_json, events=events) as reporter:
        wished = _wish(target, changes(given), out)
        if asked["calibrate"]:
            with swiftly():
                from limner.planning.calibrate import calibrate as measure

            measure(wished.recipe.limits, reporter)
        planned = run(wished.recipe, reporter, card=asked["card"], price=asked["price"], whole=asked["exact"])
        kept = target is not None and keep(planned, RunDir(wished.out))
    if not planned.fits:
        if not as_json:
            raise DoesNotFit(str(planned.misfit))
        result(planned.plain(), [], as_json=True)
        raise typer.Exit(1)
    told = lines(planned)
    told += [f"Kept: {RunDir(wished.out).plan_path}"] if kept else []
    result(planned.plain(), told, as_json=as_json)


def _wish(target: Path | None, changed: dict[str, Any], out: Path | None) -> Wish:
    if target is not None:
        return wish(target, changed, out)
    return Wish(template({"data.images": Path("-"), **changed}), out or RUNS, {})
