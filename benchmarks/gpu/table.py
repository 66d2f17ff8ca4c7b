"""The table of cells: Limner beside other programs on one GPU, every card smaller than it played on it.

``python benchmarks/gpu --card H100 --diffusers FOLDER [--sd-scripts FOLDER] [--musubi FOLDER] [--cells 1 2]``
measures; ``--tiny`` does the same with tiny models on a processor, in less than a minute a cell, to prove the
script; ``--plan FILE`` writes what is predicted and measures nothing.

One process for each turn; sides take turns (ABAB..). Steps are timed between the ends of optimizer steps,
by CUDA events, after three that do not count. Useful FLOPs are those of one pass forward and backward,
counted by tracing; what a side computes twice counts as used, not as useful.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpu import cells, peers
from gpu.cells import WARM_UP, Cell
from gpu.emulation import Gauge, ballast, played
from gpu.figures import HEADER, LEGEND, LIMNER, counted, lines, notes
from outcome import save, table

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sitting:
    """What holds for all turns."""

    asked: argparse.Namespace
    work: Path
    """Folder of bases and logs."""
    deadline: float = float("inf")
    """By the monotonic clock: nothing begins after it."""

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() > self.deadline

    @property
    def left(self) -> float | None:
        """Seconds that a process may take."""
        return None if self.deadline == float("inf") else max(1.0, self.deadline - time.monotonic()) + GRACE


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", nargs="+", default=[], help="by name; left out: all")
    parser.add_argument(
        "--sides", nargs="+", help="left out: limner and every proved peer whose source is given"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models, on a processor too")
    parser.add_argument("--card", default="H100", help="the card that is there: its rates")
    parser.add_argument("--ram", type=int, default=0, metavar="GIB", help="of the host, for plans")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0, help="begin no turn after so many; 0: no limit")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="write predictions and measure nothing")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="predictions made elsewhere")
    parser.add_argument("--work", type=Path, help="for bases and logs; needs room for the largest base")
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "results")
    parser.add_argument("--name", default="gpu")
    parser.add_argument("--gradients", action="store_true", help="compare them with plain ones first")
    parser.add_argument("--no-ballast", action="store_true", help="cap torch's allocator alone")
    for source in sorted({peer.source for peer in peers.PEERS.values()}):
        parser.add_argument(f"--{source}", type=Path, metavar="FOLDER", help="source of a peer")
    return parser.parse_args(words)


def main() -> None:
    """Predict, measure, print, write."""
    options = arguments()
    cells_chosen = cells.chosen(options.cells, small=options.tiny)
    if options.plan:
        from gpu.planned import keep

        keep(options.plan, [predicted(options, cell) for cell in cells_chosen])
        return
    work = Path(options.work or tempfile.mkdtemp(prefix="cells-"))
    work.mkdir(parents=True, exist_ok=True)
    sitting = Sitting(options, work, time.monotonic() + options.seconds if options.seconds else float("inf"))
    results: list[dict[str, Any]] = []
    facts = {"tiny": options.tiny, "card": options.card, "rounds": options.rounds, "cells": results}
    facts["matrix_rate"] = matrix_rate(tiny=options.tiny)
    try:
        for cell in cells_chosen:
            results.append(begun(options, cell))
            turns(sitting, cell, results[-1], partial(save, options.name, facts, options.out))
        for cell, result in zip(cells_chosen, results, strict=True) if options.gradients else ():
            result["gradients"] = gradients(sitting, cell, result["predicted"])
            save(options.name, facts, options.out)
    finally:
        if options.work is None:
            shutil.rmtree(work)
    print(table(HEADER, [row for result in results for row in lines(result)]))
    print(LEGEND)
    print(f"Square product: {facts['matrix_rate'] / 1e12:.4g} TFLOP/s")
    for result in results:
        print(*notes(result), sep="\n")
    print(save(options.name, facts, options.out))


def predicted(options: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """What Limner says of a cell, now or as it was carried here."""
    from gpu.planned import kept, prediction

    if options.plans:
        return kept(options.plans)[cell.name]
    return prediction(cell, options.card, tiny=options.tiny, ram=options.ram)


def given(options: argparse.Namespace) -> dict[str, Path]:
    """Project -> its source, of those that were given."""
    source_table = {
        peer.source: getattr(options, peer.source.replace("-", "_")) for peer in peers.PEERS.values()
    }
    return {source: folder.resolve() for source, folder in source_table.items() if folder}


def begun(options: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """What is known of a cell before anything is measured."""
    sides = sides_of(options, cell)
    return {
        "cell": cell.name,
        "label": cell.label,
        "batch": cell.batch,
        "floor": cell.floor,
        "wanted": cell.wanted,
        "predicted": predicted(options, cell),
        "left_out": [name for name in cell.peers if name not in sides],
        "levels": {side: peers.level(side, cell.base) for side in sides if side != LIMNER},
        "turns": [],
    }


def sides_of(options: argparse.Namespace, cell: Cell) -> list[str]:
    """Who takes turns at a cell."""
    sources = given(options)
    peer_table = {name: peers.PEERS[name] for name in cell.peers}
    able = [name for name, peer in peer_table.items() if peer.source in sources and peer.proved]
    return options.sides or [LIMNER, *able]


def turns(sitting: Sitting, cell: Cell, result: dict[str, Any], keep: Callable[[], object]) -> None:
    """All turns of a cell; each is kept as soon as it is over, as whoever lends the GPU may end it all."""
    for round_ in range(sitting.asked.rounds):
        for side in sides_of(sitting.asked, cell):
            outcome = tried(sitting, cell, side, result["predicted"])
            print(f"{cell.label}, round {round_ + 1}, {side}: {short(outcome)}", file=sys.stderr, flush=True)
            result["turns"].append({"side": side, "round": round_, **outcome})
            keep()


def tried(sitting: Sitting, cell: Cell, side: str, forecast: Mapping[str, Any]) -> dict[str, Any]:
    """One turn; what fails in it, or takes too long, is its result."""
    if sitting.over:
        return LATE
    try:
        return turn(sitting, side, prepare(sitting, cell, side), forecast)
    except FAILURES as error:
        return {"failed": reason(error)}


def prepare(sitting: Sitting, cell: Cell, side: str) -> peers.Turn:
    """The folder of a turn, and the base and images that programs of others load."""
    work, tiny = sitting.work, sitting.asked.tiny
    base, photos = work / f"base-{cell.base}", work / f"photos-{cell.name}"
    if side != LIMNER:
        for old in work.glob("base-*"):  # one at a time: the largest takes 40 GB
            if old != base:
                shutil.rmtree(old)
        if not (base.exists() and photos.exists()):
            settings = {"folder": str(base), "base": cell.base, "tiny": tiny, "photos": str(photos)}
            settings |= {"sizes": cell.sizes, "count": cell.batch * 10}
            command = [sys.executable, "-m", "gpu.fake", json.dumps(settings)]
            subprocess.run(command, check=True, env=environment(), timeout=sitting.left)
    out = Path(tempfile.mkdtemp(prefix=f"{cell.name}-{side}-", dir=work))
    sources = given(sitting.asked)
    return peers.Turn(cell=cell, tiny=tiny, base=base, photos=photos, out=out, sources=sources)


def environment(**extra: str) -> dict[str, str]:
    """Of every process that is started."""
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    plain = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    plain["PYTORCH_ALLOC_CONF"] = plain["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return {**os.environ, **plain, **extra}


def turn(sitting: Sitting, side: str, settings: peers.Turn, forecast: Mapping[str, Any]) -> dict[str, Any]:
    """One process from its start to its last step that counts."""
    cell, tiny = settings.cell, settings.tiny
    command = ours(cell, forecast, tiny=tiny) if side == LIMNER else peers.command(side, settings)
    card, out, log = played(cell.card), settings.out / "seen.json", settings.out / "log.txt"
    with ExitStack() as stack, log.open("wb") as file:
        if shutil.which("nvidia-smi") and not tiny and not sitting.asked.no_ballast:
            stack.enter_context(ballast(card))
        gauge = stack.enter_context(Gauge())
        bench = {"cap": 0 if tiny else card.cap, "out": str(out), "began": time.time()}
        bench |= {"warm_up": WARM_UP, "steps": cell.steps}
        process = subprocess.run(
            command,
            stdout=file,
            stderr=file,
            env=environment(LIMNER_BENCH=json.dumps(bench)),
            check=False,
            timeout=sitting.left,
        )
    if not out.exists():
        return {"failed": why(log, process.returncode), "log": str(log), "device_peak": gauge.peak}
    facts = json.loads(out.read_text())
    return {**facts, **counted(facts, WARM_UP), "device_peak": gauge.peak}


def ours(cell: Cell, forecast: Mapping[str, Any], *, tiny: bool) -> list[str]:
    """Limner's side."""
    settings = {"plan": forecast["plan"], "base": cell.base, "sizes": cell.sizes, "batch": cell.batch}
    return [sys.executable, "-m", "gpu.ours", json.dumps({**settings, "steps": cell.steps, "tiny": tiny})]


def gradients(sitting: Sitting, cell: Cell, forecast: Mapping[str, Any]) -> dict[str, Any]:
    """How far the plan's gradient is from that of a plain shallow model of full width."""
    if sitting.over:
        return LATE
    settings = {"base": cell.base, "tiny": sitting.asked.tiny, "sizes": cell.sizes[:1], "batch": 1}
    settings |= {"plan": {**forecast["plan"], "micro_batch": 1}, "blocks": forecast["blocks"]}
    command = [sys.executable, "-m", "gpu.gradients", json.dumps(settings)]
    try:
        outcome = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment(), timeout=sitting.left
        )
        return json.loads(outcome.stdout.strip().splitlines()[-1])  # libraries may print before it
    except FAILURES as error:
        return {"failed": reason(error)}


FAILURES = (subprocess.SubprocessError, OSError, ValueError, LookupError)
"""What may go wrong in a process that was started, or with what it wrote."""
LATE = {"failed": "not begun: no time left"}
GRACE = 60
"""Seconds that a process which has begun may go on after the deadline."""


def reason(error: Exception) -> str:
    """Why something failed, in a line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return "stopped: no time left"
    forecast = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    text = forecast if isinstance(forecast, str) and forecast.strip() else str(error)
    return text.strip().splitlines()[-1][:160]


def why(log: Path, code: int) -> str:
    """What went wrong, by the last line that says something."""
    text = log.read_text(errors="replace")
    if "OutOfMemoryError" in text or "out of memory" in text:
        return "out of memory"
    last = [line for line in text.splitlines() if line.strip()] or ["nothing was said"]
    return f"ended with {code}: {last[-1][:160]}"


def matrix_rate(*, tiny: bool) -> float:
    """FLOP/s of a large product, in a process of its own."""
    settings = [sys.executable, "-m", "gpu.clock", "512" if tiny else "8192"]
    return float(
        subprocess.run(settings, capture_output=True, text=True, check=True, env=environment()).stdout
    )


def short(outcome: Mapping[str, Any]) -> str:
    """One turn in few words."""
    return outcome["failed"] if "failed" in outcome else f"{outcome['step']:.4f} s/step"


if __name__ == "__main__":
    main()
