"""``limner generate``: images with a LoRA."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli.options import SAMPLING, Events, Json, example, numbers, steps_from, strengths, taking
from limner.cli.session import session
from limner.imports import swiftly
from limner.lora.location import on_hub
from limner.target import subject_of

if TYPE_CHECKING:
    from limner.reporter import Reporter


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example('limner generate runs/cat --prompt "[trigger] in the snow"'))(generate)


@taking(SAMPLING)
def generate(
    *,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="A run folder, what it was trained from, a LoRA file, or a hub id.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for the images. Left out: pictures/ in the run, or <LoRA>-pictures beside the file.",
            show_default=False,
        ),
    ] = None,
    options: dict[str, Any],
    show: Annotated[
        bool, typer.Option("--open", help="Show the grid, or the first image, at the end.")
    ] = False,
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Generate images with a LoRA.

    With the prompts of its recipe, or those of --prompt. Their files are named after prompt, step, strength
    and seed, and none is ever overwritten. Several strengths or seeds give a grid.
    """
    from limner import api
    from limner.cli.show import result

    with session(as_json=as_json, events=events) as reporter:
        texts, loras = options.pop("prompts") or [], strengths(options.pop("loras") or [])
        strength = numbers("--strength", options.pop("lora_scale"), float)
        keys = {key: value for key, value in options.items() if value is not None}
        steps = keys["step"] = steps_from(keys.pop("step", None))
        keys["seed"] = numbers("--seed", keys["seed"], int)
        if not on_hub(target):  # what is wrong is said before torch is loaded
            subject_of(target, texts, keys.get("prompt_file"), steps)
        with swiftly():
            import limner.generation.generate  # noqa: F401
        paths = api.generate(
            target, texts, out=out, strength=strength, loras=loras, on_event=reporter.on_event, **keys
        )
        if show:
            _open(paths, reporter)
    result({"images": paths}, [str(path) for path in paths], as_json=as_json or events)


def _open(paths: Sequence[Path], reporter: "Reporter") -> None:
    """Show the first grid, or the first image, with the program that the system opens it with."""
    from limner.generation.grid import GRID

    path = next((path for path in paths if path.name.startswith(GRID)), paths[0])
    if typer.launch(str(path)):
        reporter.line(f"Nothing on this machine opens images. Open {path} yourself.")
