"""The day that a GPU is lent: everything that matters most, in order of worth, in less than ten minutes.

    PYTHONPATH=src:benchmarks python -m gpu.day --plans plans.json [--seconds 575] [--out FOLDER] [--tiny]

First the rates of the card are measured, so that every later prediction can be worked out again with them.
Then come the cells, one turn each, each written as it ends. Time that is over begins no turn, and stops what
runs a minute later at most. Plans are made beforehand, on any machine (``python benchmarks/gpu --plan``).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gpu.table import FOLDER, environment

ORDER = (("1",), ("4", "5"), ("9",), ("1c",), ("10",), ("6b",))
"""Cells in order of worth: FLUX.1 with all weights in 16 bits; on 12 and 8 GB; the plan of a true 4090;
compiled; Krea 2 on 10 GB; launches. Then cell 8 with its gradients compared."""
LAST = "8"
CALIBRATION = 60.0
"""Seconds that measuring the card takes at most, imports included."""


def steps(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(name, command) of every step, in order."""
    table = [sys.executable, str(FOLDER), "--sides", "limner", "--rounds", "1", "--out", str(options.out)]
    table += ["--tiny"] if options.tiny else ["--plans", str(options.plans)]
    yield "calibrate", [sys.executable, "-m", "limner", "plan", "--base", "sdxl", "--calibrate", "--json"]
    for cells in ORDER:
        name = "-".join(cells)
        yield name, [*table, "--cells", *cells, "--name", f"gpu-day-{name}"]
    yield LAST, [*table, "--cells", LAST, "--gradients", "--name", f"gpu-day-{LAST}"]


def main() -> None:
    """Run the steps until the time is over; say of each how it ended."""
    parser = argparse.ArgumentParser(prog="python -m gpu.day", description=__doc__)
    parser.add_argument("--plans", type=Path, help="predictions made elsewhere")
    parser.add_argument("--seconds", type=float, default=575)
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "results")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to rehearse")
    options = parser.parse_args()
    if not (options.tiny or options.plans):
        parser.error("--plans FILE: make it with `python benchmarks/gpu --card NAME --plan FILE`")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.seconds
    for name, command in steps(options):
        seconds_left = deadline - time.monotonic()
        if seconds_left < 10:
            sys.stderr.write(f"{name}: not begun, no time left\n")
            continue
        limit = CALIBRATION if name == "calibrate" else seconds_left
        if name != "calibrate":
            command = [*command, "--seconds", f"{max(1.0, seconds_left - 65):.0f}"]
        start = time.monotonic()
        outcome = _run(command, limit, options.out / f"gpu-day-{name}.log")
        sys.stderr.write(f"{name}: {outcome}, {time.monotonic() - start:.0f} s\n")
        sys.stderr.flush()


def _run(command: list[str], seconds: float, log: Path) -> str:
    """How a step ended; what it said is in its log."""
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=file, check=False, timeout=seconds, env=environment()
            ).returncode
        except subprocess.TimeoutExpired:
            return "stopped, no time left"
    return "done" if code == 0 else f"ended with {code}"


if __name__ == "__main__":
    main()
