"""The plan of the embedded base beside a run of it: peak memory of the process, and time.

``python -m benchmarks.memory.plan_cpu [--steps 120] [--seconds 10]`` measures the processor, plans a run on a
set of the demo, trains it in processes of their own, and writes ``benchmarks/results/plan_cpu.json``. Time is
in seconds of the processor and of one thread, so that a busy machine spoils less of it: pin it to one core.
That of a step is the difference between a long and a short run, so importing and painting do not count in it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks.outcome import save

from limner.bases.demo_sets import folder
from limner.models.presets import preset
from limner.planning.calibrate import calibrate
from limner.planning.choice import PROCESS
from limner.planning.planner import plan
from limner.recipe.schema import Limits, Recipe
from limner.recipe.toml import change
from limner.reporter import PlainText, Reporter

START = 6.2
"""Seconds of the processor from the start of a process to its first step: imports and loading. Measured."""


def recipe(steps: int) -> Recipe:
    """A style of the demo, for so many steps."""
    wish = {"data.images": folder("blueprint"), "data.trigger": "zorbix", "train.steps": steps}
    return change(preset("style", "glyph", 10), wish | {"limits.device": "cpu"})


def run(steps: int, home: Path) -> tuple[float, int]:
    """Seconds of the processor and peak bytes of `limner train`."""
    command = [sys.executable, "-m", "limner", "train", str(folder("blueprint")), "--base", "glyph"]
    command += [
        "--concept-type",
        "style",
        "--trigger",
        "zorbix",
        "--steps",
        str(steps),
        "--out",
        str(home / str(steps)),
    ]
    environment = os.environ | {"LIMNER_CACHE": str(home / f"cache-{steps}"), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=10.0, help="for measuring the processor")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other take seconds as well
    calibrate(Limits(device="cpu"), Reporter(PlainText()), seconds=options.seconds)
    estimate = plan(recipe(options.steps), Reporter(PlainText()))
    assert estimate.choice is not None
    assert estimate.total is not None
    with tempfile.TemporaryDirectory() as place:
        short, _ = run(1, Path(place))
        long, peak = run(options.steps, Path(place))
    figures = {
        "steps": options.steps,
        "seconds_per_step": {
            "planned": estimate.choice.step_time.seconds,
            "measured": (long - short) / (options.steps - 1),
        },
        "seconds": {"planned": START + estimate.total.seconds, "measured": long},
        "peak_bytes": {"planned": PROCESS + estimate.choice.reserved, "measured": peak},
    }
    for name, pair in figures.items():
        if isinstance(pair, dict):
            pair["error"] = pair["planned"] / pair["measured"] - 1
            text = f"planned {pair['planned']:.4g}, measured {pair['measured']:.4g}"
            print(f"{name:<18} {text}, {pair['error']:+.1%}")
    save("plan_cpu", figures)


if __name__ == "__main__":
    main()
