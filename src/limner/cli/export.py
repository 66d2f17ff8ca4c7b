"""``limner export``: the LoRA of a training step as a file."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import Json, example, steps_from
from limner.cli.session import session
from limner.errors import BadUsage


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner export runs/cat --step best --to comfyui"))(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    *,
    step: Annotated[
        str, typer.Option("--step", help="A training step, best (by validation loss) or last.")
    ] = "last",
    to: Annotated[
        str,
        typer.Option("--to", help="Tool: diffusers, comfyui, kohya, sd-scripts, musubi, diffsynth."),
    ] = "diffusers",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write. Left out: in the run's loras/.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give out the LoRA of a training step, also while the run is under way.

    Each checkpoint brings one, and all of them stay.
    """
    from limner.cli.show import result
    from limner.files import atomic_write
    from limner.lora.verbs import convert
    from limner.run_folder import RunDir
    from limner.target import request_for

    with session(as_json=as_json) as reporter:
        steps = steps_from(step)
        if len(steps) > 1:
            raise BadUsage(f"--step is {step!r}; export one step at a time.")
        source = RunDir(request_for(run, {}, None).out).step_lora(steps[0])
        path = out or source
        if to != "diffusers":
            path = out or source.with_name(f"{source.stem}-{to}.safetensors")
            tool: Any = to  # an unknown one is told by whoever writes for it
            convert(source, tool, path, on_event=reporter.on_event)
        elif out:
            atomic_write(out, lambda draft: shutil.copyfile(source, draft))
    result({"lora": path}, [str(path)], as_json=as_json)
