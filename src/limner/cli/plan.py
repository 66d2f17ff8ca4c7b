"""The verb ``plan`` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.calibration import calibrate_first, calibrate_link
from limner.cli.options import Events, Json, Option, Out, example, recipe_options, taking
from limner.cli.session import session
from limner.errors import BadUsage, DoesNotFit
from limner.imports import swiftly
from limner.run_folder import RUNS
from limner.target import RunRequest, overrides_from, request_for, template

PLANNING = (
    Option("--card", "card", str, 'Plan for this card: "RTX 3060", "4090", "A100".'),
    Option("--price", "price", float, "US dollars per hour of a rented device."),
    Option("--processes", "processes", int, "Plan for so many GPUs of one machine, a process each.", 1),
    Option("--exact", "exact", bool, "Trace every block, though blocks repeat.", False),
    Option(
        "--calibrate",
        "calibrate",
        bool,
        "Measure the speed of this machine's device first: half a minute.",
        False,
    ),
)
"""What only this verb asks."""
MAX_PROCESSES = 64
"""Processes, as of ``limner train``."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example('limner plan photos/ --base flux-dev --card "RTX 4090"'))(plan)


@taking((*recipe_options("plan"), *PLANNING))
def plan(
    *,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="TARGET",
            help="A folder of images, a recipe.toml, or a run folder. Left out: ten images.",
            show_default=False,
        ),
    ] = None,
    out: Out = None,
    options: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Estimate VRAM and time, and choose the fastest way that fits. Without --base: a table of all bases.

    Fetches configs at most, needs no GPU: --vram 12GB plans for another card. Exits 1 when nothing fits.
    """
    tell_plan(target, out, options, as_json=as_json, events=events)


def tell_plan(
    target: Path | None, out: Path | None, options: dict[str, Any], *, as_json: bool, events: bool
) -> None:
    """Print the plan of a run, or of all bases, and exit 1 where nothing fits."""
    from limner.cli.show import result
    from limner.planning.describe import lines
    from limner.planning.planner import plan as run
    from limner.planning.several import parted
    from limner.run_folder import RunDir

    choices = {option.key: options.pop(option.key, option.default) for option in PLANNING}
    if choices["price"] is not None and choices["price"] < 0:
        raise BadUsage(f"--price is {choices['price']:g}; it must be at least 0 dollars per hour.")
    if not 1 <= (processes := choices["processes"]) <= MAX_PROCESSES:
        raise BadUsage(f"--processes is {processes}; it must be from 1 to {MAX_PROCESSES}.")
    as_json = as_json or events
    overrides = overrides_from(options)
    with session(as_json=as_json, events=events) as reporter:
        request = _request(target, overrides, out)
        if choices["calibrate"]:
            with swiftly():
                from limner.planning.calibrate import calibrate as measure

            measure(request.recipe.limits, reporter)
            if processes > 1:
                calibrate_link(request.recipe.limits, processes, reporter)
        elif choices["card"] is None:
            calibrate_first(request.recipe.limits, reporter, as_json=as_json)
        if "base" not in overrides and (target is None or request.sources):
            value, text = _survey(target, overrides, choices["card"], reporter)
        else:
            recipe, device = parted(request.recipe, choices["card"], processes)
            estimate = run(recipe, reporter, price=choices["price"], whole=choices["exact"], device=device)
            is_kept = target is not None and RunDir(request.out).write_plan(estimate.plain())
            value, text = estimate.plain(), lines(estimate)
            text += [f"Kept: {RunDir(request.out).plan_path}"] if is_kept else []
    if value.get("fits") is False and not as_json:
        raise DoesNotFit(value["why_not"])
    result(value, text, as_json=as_json)
    if value.get("fits") is False:
        raise typer.Exit(1)


def _survey(
    target: Path | None, overrides: dict[str, Any], card: str | None, reporter: Any
) -> tuple[dict[str, Any], list[str]]:
    """What each base would take, as nobody has named one: for programs, and for people."""
    from limner.planning.describe_survey import survey_lines
    from limner.planning.survey import survey

    def recipe_of(base: str) -> Any:
        return _request(target, {**overrides, "base": base}, RUNS).recipe

    bases = survey(recipe_of, reporter, card=card)
    value = {"bases": [row.plain() for row in bases.estimates], "device": bases.device.name}
    suggestion = bases.suggestion.name if bases.suggestion else None
    return {**value, "suggestion": suggestion}, survey_lines(bases, target)


def _request(target: Path | None, overrides: dict[str, Any], out: Path | None) -> RunRequest:
    if target is not None:
        return request_for(target, overrides, out)
    return RunRequest(template({"data.images": Path("-"), **overrides}), out or RUNS, {})
