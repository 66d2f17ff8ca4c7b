"""The verbs as commands. Each reads its arguments, calls one function of its room, shows the result."""

import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from limner.cli import cache, check, fetch, importer, instant, judge, plan, status, studio
from limner.cli.calibration import calibrate_first
from limner.cli.caption import caption
from limner.cli.detach import detached
from limner.cli.export import export
from limner.cli.generate import generate
from limner.cli.launch import launch
from limner.cli.options import Events, Json, Option, Out, Target, example, recipe_options, taking
from limner.cli.processes import end_with_parent, leave_others, require_room, train_together
from limner.cli.publish import publish
from limner.cli.session import session
from limner.errors import BadUsage, DoesNotFit, LimnerError
from limner.imports import swiftly
from limner.nn.memory import segments
from limner.run_folder import RUNS
from limner.target import (
    RunRequest,
    folder_name,
    home_of,
    outside,
    overrides_from,
    request_for,
    unplaced,
)

app = typer.Typer(
    name="limner",
    help="From a handful of images to a LoRA for a text-to-image model.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog=example('limner init photos/ --base flux-dev --trigger "sks cat"'))
@taking(recipe_options("init"))
def init(
    *,
    images: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A folder of images.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("recipe.toml"),
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a commented recipe to edit.

    Every key, what it means, and where its value is from.
    """
    from limner.cli.show import result
    from limner.files import write_text
    from limner.models.registry import distilled_note
    from limner.recipe.toml import commented

    if os.path.lexists(out):  # links to nothing and rings of links too
        raise BadUsage(f"{out} exists. Remove it, or write another file with --out.")
    overrides = overrides_from(options)
    request = _template(images, overrides)
    names = {"data.images": images, **overrides} if images else {}
    try:
        write_text(out, commented(unplaced(request.recipe, out, names), request.sources))
    except OSError as error:
        raise BadUsage(
            f"{out} cannot be written: {error.strerror}. Choose another file with --out."
        ) from error
    note = "" if request.recipe.train.adapter else distilled_note(request.recipe.base)
    lines = [f"{out}", *([note] if note else []), f"Next: limner train {out}"]
    result({"recipe": out}, lines, as_json=as_json)


def _template(images: Path | None, overrides: dict[str, Any]) -> RunRequest:
    from limner.models.presets import choices, concessions, preset, preset_name, ways
    from limner.recipe import Recipe
    from limner.recipe.toml import change

    if images is not None:
        home = home_of(images) or outside(RUNS / folder_name(images), [images])
        return request_for(images, overrides, home)
    base, concept = overrides.get("base", Recipe().base), overrides.get("concept_type", Recipe().concept_type)
    family, count = preset_name(base), 10
    start = (concept, family, count, *ways(overrides))
    sources = {path: choice.source for path, choice in choices(*start).items() if path not in overrides}
    values = {"base": base, **concessions(overrides), **overrides}
    return RunRequest(change(preset(*start), values), RUNS, sources)


DRY_RUN = Option("--dry-run", "dry_run", bool, "Say what `limner plan` says, and train nothing.", False)


@app.command(epilog=example('limner train photos/ --base flux-dev --trigger "sks cat"'))
@taking((*recipe_options("train"), DRY_RUN))
def train(
    *,
    target: Target,
    out: Out = None,
    options: dict[str, Any],
    detach: Annotated[
        bool, typer.Option("--detach", help="Train in the background, also when the terminal is closed.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, max=64, help="Train on so many GPUs of this machine, a process each."
        ),
    ] = 1,
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Train a LoRA, or the whole base (train.method = "full"), or resume a run.

    A run that is complete is left as it is; one that was stopped goes on where it was saved.
    """
    from limner import api
    from limner.cli.show import result

    if options.pop("dry_run"):
        plan.tell_plan(target, out, {**options, "processes": processes}, as_json=as_json, events=events)
        return
    with session(as_json=as_json, events=events) as reporter:
        request = request_for(target, overrides_from(options), out)
        if detach:
            detached(request.out, as_json=as_json)
            return
        if processes > 1:
            require_room(processes, request.recipe.limits.device)
            raise typer.Exit(train_together(processes))
        end_with_parent()
        calibrate_first(request.recipe.limits, reporter, as_json=as_json or events)
        summary = api.train(request.recipe, out=request.out, on_event=reporter.on_event)
    loss = "" if math.isnan(summary.loss) else f", loss {summary.loss:.4f}"
    validation = "" if summary.validation_loss is None else f", validation loss {summary.validation_loss:.4f}"
    paths = {"LoRA:   ": summary.lora, "Word:   ": summary.embedding, "Model:  ": summary.model}
    lines = [
        *(f"{label} {path}" for label, path in paths.items() if path),
        f"Report:  {summary.report}",
        f"Trained: {summary.steps} steps in {summary.seconds:.0f} s{loss}{validation}",
    ]
    result(summary, lines, as_json=as_json or events)


cache.register(app)
app.command(epilog=example('limner caption photos/ --with claude --trigger "sks cat"'))(caption)


app.command(epilog=example("limner export runs/cat --step best --to comfyui"))(export)

app.command(epilog=example("limner launch recipe.toml --gpu H100 --cloud lambda --dry-run"))(launch)

app.command(epilog=example("limner publish runs/cat --to ada/cat-lora --private"))(publish)

app.command(epilog=example('limner generate runs/cat --prompt "[trigger] in the snow"'))(generate)


@app.command(epilog=example("limner demo --out demo"))
def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path(
        "demo"
    ),
    as_json: Json = False,
) -> None:
    """Train LoRAs on the embedded base, and compare images before and after.

    Needs no GPU and no download.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.demo import demo as run

        summary = run(out, reporter)
    lines = [
        f"{lora['path']}: {lora['seconds']:.0f} s, "
        f"score {lora['before']:.0%} before, {lora['after']:.0%} after"
        for lora in summary["loras"]
    ]
    result(summary, [*lines, f"Sheet:  {summary['sheet']}", f"Report: {summary['report']}"], as_json=as_json)


@app.command(epilog=example("limner doctor"))
def doctor(*, as_json: Json = False) -> None:
    """Say what this machine can train, what is missing, and what to do.

    Exits 1 when something that is needed is missing.
    """
    from limner.cli.show import result

    with session(as_json=as_json):
        from limner.doctor import doctor as run
        from limner.doctor import lines, summary

        findings = run()
        first = summary(findings)
    healthy = all(finding.ok for finding in findings)
    text = [first, "", *lines(findings)]
    result({"ok": healthy, "summary": first, "findings": findings}, text, as_json=as_json)
    if not healthy:
        raise typer.Exit(1)


@app.command(epilog=example("limner schema > recipe.schema.json"))
def schema(*, as_json: Json = True) -> None:
    """Print the JSON schema of recipes, for editors."""
    del as_json  # there is no other form
    from limner.cli.show import result
    from limner.recipe.toml import json_schema

    result(json_schema(), [], as_json=True)


check.register(app)
instant.register(app)
judge.register(app)
fetch.register(app)
plan.register(app)
importer.register(app)
status.register(app)
studio.register(app)


@app.callback(invoke_without_command=True)
def limner(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a handful of images to a LoRA for a text-to-image model."""
    if version:
        from importlib.metadata import version as installed

        sys.stdout.write(f"limner {installed('limner')}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process: status 0, 1 (the task failed) or 2 (wrong usage).

    Args:
        arguments: What follows ``limner`` on the command line; those of the process when left out.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    segments.configure()
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn of is for programmers: python -W default
    status = _status(line)
    if "RANK" in os.environ:
        leave_others(status)
    sys.exit(status)


def _verb(arguments: Sequence[str]) -> str:
    """``limner``, and the verb that a command line begins with, if it is one."""
    verbs = getattr(typer.main.get_command(app), "commands", {})
    return " ".join(["limner", *(word for word in arguments[:1] if word in verbs)])


def _status(arguments: list[str]) -> int:
    from limner.cli.show import failure

    as_json = "--json" in arguments or "--events" in arguments
    try:
        status = app(args=arguments, prog_name="limner", standalone_mode=False)
    except LimnerError as error:
        failure(type(error).__name__, str(error), as_json=as_json)
        return error.exit_code
    except TyperException as error:
        message = error.format_message().rstrip(".")
        end = "" if message.endswith("?") else "."
        failure(BadUsage.__name__, f"{message}{end} See `{_verb(arguments)} --help`.", as_json=as_json)
        return error.exit_code
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, and torch may not be loaded
            raise
        failure(
            DoesNotFit.__name__,
            f"The GPU has no memory left: {str(error).partition(' GPU ')[0][:160].rstrip('. ')}. Close what "
            "else uses it, or state less with --vram, so that more is kept off it.",
            as_json=as_json,
        )
        return DoesNotFit.exit_code
    except OSError as error:
        path = error.filename2 or error.filename  # of two, the one that the person knows comes second
        prefix = f"{str(path)[:200]}: " if path else ""
        failure(
            type(error).__name__,
            f"{prefix}{error.strerror or error}. Check the path, its permissions and the disk.",
            as_json=as_json,
        )
        return 1
    return status if isinstance(status, int) else 0
