"""The verbs as commands. Each reads its arguments, calls one function of its room, shows the result."""

import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from limner.cli import cache, check, plan
from limner.cli.caption import caption
from limner.cli.options import EVENTS, PICTURES, RECIPE, taking
from limner.errors import BadUsage, DoesNotFit, LimnerError, Stopped
from limner.imports import swiftly
from limner.target import RUNS, Wish, changes, folder_name, subject_of, wish

app = typer.Typer(
    name="limner",
    help="From a handful of images to a LoRA for a text-to-image model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Target = Annotated[
    Path, typer.Argument(metavar="TARGET", help="A folder of images, a recipe.toml, or a run folder.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run folder. Left out: runs/<name>.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]


Events = Annotated[bool, EVENTS]


@contextmanager
def speaking(*, as_json: bool, events: bool = False) -> Iterator[Any]:
    """Give a verb its ``Reporter``, keep what libraries print off stdout, turn a signal into one line."""
    from limner.cli.show import listener
    from limner.reporter import Reporter
    from limner.training.interrupt import polite

    for library in ("TRANSFORMERS", "DIFFUSERS"):  # before it is loaded: its advice is for programmers
        os.environ.setdefault(f"{library}_VERBOSITY", "critical")
    try:
        hear = listener(events=events)
        with polite(), redirect_stdout(sys.stderr) if as_json or events else nullcontext():
            yield Reporter(hear)
    except KeyboardInterrupt:
        raise Stopped("Stopped. What was written is kept; run the same command again.") from None


@app.command()
@taking(RECIPE)
def init(
    *,
    images: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A folder of images.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("recipe.toml"),
    given: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a commented recipe to edit.

    Every key, what it means, and where its value is from.
    """
    from limner.cli.show import result
    from limner.files import write_text
    from limner.recipe.toml import commented

    if out.exists():
        raise BadUsage(f"{out} exists. Remove it, or write another file with --out.")
    wished = _template(images, changes(given))
    try:
        write_text(out, commented(wished.recipe, wished.sources))
    except OSError as error:
        raise BadUsage(
            f"{out} cannot be written: {error.strerror}. Choose another file with --out."
        ) from error
    result({"recipe": out}, [f"{out}", f"Next: limner train {out}"], as_json=as_json)


def _template(images: Path | None, changed: dict[str, Any]) -> Wish:
    from limner.models.presets import choices, preset, preset_name
    from limner.recipe import Recipe
    from limner.recipe.toml import change

    if images is not None:
        return wish(images, changed, RUNS / folder_name(images))
    base, concept = changed.get("base", Recipe().base), changed.get("concept_type", Recipe().concept_type)
    family, count = preset_name(base), 10
    start = (concept, family, count, changed.get("train.method", Recipe().train.method))
    sources = {path: one.source for path, one in choices(*start).items() if path not in changed}
    return Wish(change(preset(*start), {"base": base, **changed}), RUNS, sources)


@app.command()
@taking(RECIPE)
def train(
    *,
    target: Target,
    out: Out = None,
    given: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Train a LoRA, or the whole base (train.method = "full"), or go on with a run.

    A run that is complete is left as it is; one that was stopped goes on where it was saved.
    """
    from limner import api
    from limner.cli.show import result

    with speaking(as_json=as_json, events=events) as reporter:
        wished = wish(target, changes(given), out)
        with swiftly():
            import limner.training.train  # noqa: F401  most of the time until the first step
        done = api.train(wished.recipe, out=wished.out, on_event=reporter.on_event)
    loss = "" if math.isnan(done.loss) else f", loss {done.loss:.4f}"
    held_out = "" if done.validation_loss is None else f", held-out loss {done.validation_loss:.4f}"
    lines = [
        f"LoRA:    {done.lora}" if done.lora else f"Model:   {done.model}",
        f"Report:  {done.report}",
        f"Trained: {done.steps} steps in {done.seconds:.0f} s{loss}{held_out}",
    ]
    result(done, lines, as_json=as_json or events)


cache.register(app)
app.command()(caption)


@app.command()
@taking(PICTURES)
def generate(
    *,
    target: Target,
    out: Out = None,
    given: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Paint pictures with a LoRA.

    Takes a run folder, what it was made from, or a .safetensors file.
    """
    from limner import api
    from limner.cli.show import result

    with speaking(as_json=as_json, events=events) as reporter:
        texts, strength = given.pop("prompts") or [], given.pop("lora_scale")
        keys = {key: value for key, value in given.items() if value is not None}
        subject_of(target, texts)  # what is wrong with it is said before torch is loaded
        with swiftly():
            import limner.generation  # noqa: F401
        paths = api.generate(target, texts, out=out, strength=strength, on_event=reporter.on_event, **keys)
    result({"images": paths}, [str(path) for path in paths], as_json=as_json or events)


@app.command()
def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path(
        "demo"
    ),
    as_json: Json = False,
) -> None:
    """Train on the embedded base, show before and after."""
    from limner.cli.show import result

    with speaking(as_json=as_json) as reporter:
        with swiftly():
            from limner.demo import demo as run

        done = run(out, reporter)
    lines = [
        f"{one['path']}: {one['seconds']:.0f} s, score {one['before']:.0%} before, {one['after']:.0%} after"
        for one in done["loras"]
    ]
    result(done, [*lines, f"Sheet:  {done['sheet']}", f"Report: {done['report']}"], as_json=as_json)


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Say what is installed, what is missing, what to do.

    Exits 1 when something that is needed is missing.
    """
    from limner.cli.show import result

    with speaking(as_json=as_json):
        from limner.doctor import doctor as run

        findings = run()
    healthy = all(finding.ok for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok ' if finding.ok else 'BAD'}  {finding.name}: {finding.detail}")
        if finding.remedy:
            lines.append(f"     -> {finding.remedy}")
    result({"ok": healthy, "findings": findings}, lines, as_json=as_json)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def schema(*, as_json: Json = True) -> None:
    """Print the JSON schema of recipes, for editors."""
    del as_json  # there is no other form
    from limner.cli.show import result
    from limner.recipe.toml import json_schema

    result(json_schema(), [], as_json=True)


check.register(app)
plan.register(app)


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
    _grow()
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn of is for programmers: python -W default
    sys.exit(_status(line))


def _grow() -> None:
    """Have torch's segments grow, which leaves hardly a gap between buckets; read when it is loaded.

    What the user said of them stands. torch below 2.9 reads the first name alone, others warn of neither.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    value = next((os.environ[name] for name in names if os.environ.get(name)), "expandable_segments:True")
    for name in names:
        os.environ.setdefault(name, value)


def _status(arguments: list[str]) -> int:
    from limner.cli.show import failure

    as_json = "--json" in arguments or "--events" in arguments
    try:
        status = app(args=arguments, prog_name="limner", standalone_mode=False)
    except LimnerError as error:
        failure(type(error).__name__, str(error), as_json=as_json)
        return error.exit_code
    except TyperException as error:
        what = error.format_message().rstrip(".")
        end = "" if what.endswith("?") else "."
        failure(BadUsage.__name__, f"{what}{end} See `limner --help`.", as_json=as_json)
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
