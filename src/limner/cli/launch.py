"""``limner launch``: a run on a rented machine, by SkyPilot."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import Json, Option, Target, example, taking
from limner.cli.session import session
from limner.imports import swiftly
from limner.target import request_for

LAUNCHING = (
    Option(
        "--gpu",
        "gpu",
        str,
        "GPU and how many of it: H100:2. Left out: the one on which the whole run costs least.",
        "",
        metavar="NAME[:COUNT]",
    ),
    Option("--cloud", "cloud", str, "Cloud: aws, gcp, lambda, runpod, vast .. Left out: any.", ""),
    Option("--spot", "spot", bool, "A cheaper machine that may be taken away; the run goes on.", False),
    Option(
        "--bucket",
        "bucket",
        str,
        "Where the run outlives its machine: s3://name, or a name for a new bucket.",
        "",
        metavar="URL",
    ),
    Option("--package", "package", str, "What pip installs there: a requirement, or a wheel.", ""),
    Option("--dry-run", "dry_run", bool, "Write the task, and start nothing.", False),
)
"""What this verb asks."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner launch recipe.toml --gpu H100 --cloud lambda --dry-run"))(launch)


@taking(LAUNCHING)
def launch(
    *,
    target: Target,
    out: Annotated[Path, typer.Option("--out", help="The task to write.")] = Path("task.yaml"),
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Train on a rented machine: write a SkyPilot task, and start it.

    The plan says which GPU, how long and for how much. Keys and tokens are never written.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        request = request_for(target, {}, None)
        with swiftly():
            from limner.launching.launch import LaunchRequest
            from limner.launching.launch import launch as run

        outcome = run(LaunchRequest(recipe=request.recipe, home=request.out, out=out, **options), reporter)
    start = "" if outcome.is_running else f"Start it: {' '.join(outcome.command)}"
    lines = [f"Task: {outcome.task}", *outcome.lines, start]
    result(outcome, [line for line in lines if line], as_json=as_json)
