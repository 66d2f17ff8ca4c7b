"""The half minute that makes plans true: offered or done before the first plan on a GPU that is here."""

import os
import subprocess
import sys
from dataclasses import replace

import typer

from limner.cli.processes import environment, free_port, require_room
from limner.errors import BadUsage
from limner.imports import swiftly
from limner.recipe.schema import Limits
from limner.reporter import Reporter

LINK = "limner.planning.link"
"""The program that measures a link, run as one of several processes."""
PATIENCE = 300
"""Seconds that it may take, with loading torch."""
NEVER = "LIMNER_CALIBRATE"
"""Environment variable: "never" leaves a GPU unmeasured without a word."""


def calibrate_first(limits: Limits, reporter: Reporter, *, as_json: bool) -> None:
    """Measure the GPU of this machine, if nobody ever has: asked first on a terminal, said only for programs.

    Several processes that a launcher children measure nothing, as each would disturb the others.

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


def calibrate_link(limits: Limits, processes: int, reporter: Reporter) -> None:
    """Measure how fast so many processes of this machine gather from each other, and keep it with its rates.

    Raises:
        BadUsage: There are fewer GPUs, or the processes could not meet.
    """
    from limner.planning.local_device import device_for, keep_rates

    require_room(processes, limits.device)
    port = free_port()
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if limits.device == "cpu" else {}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", LINK],
            env={**os.environ, **hidden, **environment(rank, processes, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        texts = [process.communicate(timeout=PATIENCE) for process in children]
    except subprocess.TimeoutExpired as error:
        raise BadUsage(f"The link was not measured: the processes did not end in {PATIENCE} s.") from error
    finally:
        for process in children:
            process.kill()
    failures = [text for process, (_, text) in zip(children, texts, strict=True) if process.returncode]
    if failures:
        last = (failures[0].strip().splitlines() or ["no word"])[-1]
        raise BadUsage(f"The link was not measured: {last[:200]}. See to that, or plan without --calibrate.")
    device = device_for(Limits(device=limits.device))
    rates = replace(device.rates, link=float(texts[0][0].split()[-1]))
    path = keep_rates(device, rates, {"processes": processes})
    reporter.line(f"Link between {processes} processes: {rates.link / 1e9:.3g} GB/s gathered. Kept: {path}")
