"""``limner train``: the run that a folder of images, a recipe or a run folder names."""

import math
from typing import Annotated, Any

import typer

from limner.cli.calibration import calibrate_first
from limner.cli.options import Events, Json, Option, Out, Target, example, recipe_options, taking
from limner.cli.processes import end_with_parent, require_room, train_together
from limner.cli.session import session
from limner.target import overrides_from, request_for

DRY_RUN = Option("--dry-run", "dry_run", bool, "Say what `limner plan` says, and train nothing.", False)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example('limner train photos/ --base flux-dev --trigger "sks cat"'))(train)


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
        from limner.cli.plan import tell_plan

        tell_plan(target, out, {**options, "processes": processes}, as_json=as_json, events=events)
        return
    with session(as_json=as_json, events=events) as reporter:
        request = request_for(target, overrides_from(options), out)
        if detach:
            from limner.cli.detach import detached

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
