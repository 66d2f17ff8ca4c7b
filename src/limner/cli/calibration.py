"""The half minute that makes plans true: offered or done before the first plan on a GPU that is here."""

import os
import sys

import typer

from limner.imports import swiftly
from limner.recipe.schema import Limits
from limner.reporter import Reporter

NEVER = "LIMNER_CALIBRATE"
"""Environment variable: "never" leaves a GPU unmeasured without a word."""


def calibrate_first(limits: Limits, reporter: Reporter, *, as_json: bool) -> None:
    """Measure the GPU of this machine, if nobody ever has: asked first on a terminal, said only for programs.

    Several processes that a launcher started measure nothing, as each would disturb the others.

    Args:
        limits: Of the recipe; a processor is never measured unasked.
        reporter: Is told what is done, or what would have to be.
        as_json: Whether a program reads along: a half minute would surprise it.
    """
    from limner.planning.local_device import device_for

    if limits.device == "cpu" or os.environ.get(NEVER) == "never":
        return
    device = device_for(Limits(device=limits.device))
    if device.kind != "cuda" or device.measured:
        return
    advice = f"{device.name} has never been measured, so times are those published for such cards."
    if as_json or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        reporter.line(f"{advice} `limner plan --calibrate`, run once, takes half a minute.")
        return
    with swiftly():
        import torch

        from limner.planning.calibrate import calibrate
    if not torch.cuda.is_available():
        return  # a run says what is wrong; a plan needs no torch that can use the card
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not typer.confirm(f"{advice} Measure it now, in half a minute?", default=True, err=True):
            return
    else:
        reporter.line(f"{advice} It is measured now, which takes half a minute.")
    calibrate(limits, reporter)
