"""Are runs of 1, 2, 3 and 4 processes one and the same run, and does it outlive the kill of any of them?

    python -m benchmarks.robustness.processes [--base FOLDER] [--processes 2 3 4] [--work FOLDER]

Processes over gloo on the CPU, copies of one that has loaded everything, with an empty cache for each run,
which they fill together. Every setting has dropout in the adapters, flips, dropped captions and an average of
weights (EMA); :data:`SETTINGS` adds a ragged last micro-batch, text encoders, a teacher and class images as
prior. Compared with the run of one process are all tensors of the last checkpoint: weights, the optimizer's
moments and the average.

* 1 process again, 2 processes with two micro-batches in a step: equal to the bit.
* More: the same sums in another order. The greatest difference is told, in parts of the tensor's greatest
  value.
* Stopped and gone on with another number of processes, 2 -> 3 -> 1: the same.
* Any one process of ``limner train recipe.toml --processes N`` is killed (SIGKILL): the seconds until all
  others have ended, what was said, and whether the run then goes on to end, bit for bit, as that of as many
  processes that nobody killed.

Without --base, a random FLUX pipeline of a few thousand weights is made.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from benchmarks.outcome import save, table
from benchmarks.robustness.kill import prepare, tiny

from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train as limner_train
from limner.training import checkpoint

STEPS = 6
KILL_STEPS = 30
"""Of a run in which a process is killed after a few."""
SETTINGS: dict[str, dict[str, Any]] = {
    "two micro-batches": {},
    "ragged last micro-batch": {"train.batch": 3},
    "three micro-batches, ragged": {"train.batch": 5},
    "both text encoders": {
        "lora.text_encoders": ("text_encoder", "text_encoder_2"),
        "lora.text_encoder_layers": 1,
    },
    "teacher as prior": {"prior.kind": "teacher", "prior.class_word": "thing", "prior.batch": 2},
    "class images as prior": {"prior.images": "images", "prior.batch": 2},
}
"""Name -> what is changed in the recipe."""
TO_THE_BIT = ("two micro-batches", "both text encoders")
"""Settings that two processes train to the bit: their steps have two micro-batches."""
ROUNDING = 1e-3
"""What else may differ, in parts of the greatest value of a tensor."""
SPLIT = {"limits.shard": "on"}
"""What is changed for weights that are split over two processes (FSDP2), of which each is killed too."""
BOUND = 60.0
"""Seconds that the others may take to end."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    words: str
    """What it said on stderr."""


@dataclass(frozen=True)
class Killed:
    """A process that was killed."""

    processes: int
    rank: int
    seconds: float
    """From the kill to the end of all."""
    words: list[str] = field(default_factory=list)
    """Lines on stderr that are not progress."""
    saved: int = 0
    """Step of the newest checkpoint then."""
    is_same: bool = False
    """Whether the run went on and ended like the one that nobody killed, bit for bit."""


def wish(base: Path, work: Path, changes: dict[str, Any], steps: int = STEPS) -> Recipe:
    """The recipe of a setting, over the pictures of ``benchmarks.robustness.kill``."""
    images = work / "images"
    recipe = Recipe.model_validate(
        {
            "base": str(base),
            "data": {
                "images": str(images),
                "flip": True,
                "caption_dropout": 0.3,
                "trigger": "zorb",
                "resolution": 32,
            },
            "lora": {"rank": 3, "dropout": 0.1},
            "train": {
                "steps": steps,
                "batch": 4,
                "learning_rate": 1e-3,
                "save_every": 3,
                "ema": 0.9,
                "schedule": "constant",
            },
            "sample": {"every": -1},
            "limits": {"micro_batch": 2, "device": "cpu"},
        }
    )
    changes = {key: str(images) if key == "prior.images" else value for key, value in changes.items()}
    return toml.change(recipe, changes)


def start(recipe: Recipe, run: Path, processes: int) -> subprocess.Popen[str]:
    """The command, with a cache of its own beside the run folder."""
    path = run.with_suffix(".toml")
    path.write_text(toml.dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "limner", "train", str(path), "--out", str(run)]
    command += ["--processes", str(processes)] if processes > 1 else []
    cache = str(run.with_name(f"{run.name}-cache"))
    environment = {**os.environ, "LIMNER_CACHE": cache, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end of a command."""
    _, words = process.communicate()
    return Ended(process.returncode, words)


def train(recipe: Recipe, run: Path, processes: int) -> Path:
    """Train to the end, with a cache beside the run folder, in processes that begin as copies of this one.

    Raises:
        SystemExit: One of them failed.
    """
    meeting = run.with_name(f"{run.name}-{recipe.train.steps}-meeting")
    children = [_forked(recipe, run, (rank, processes), meeting) for rank in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"{run.name}: processes ended with {codes}; what they said is above")
    return run


def _forked(recipe: Recipe, run: Path, place: tuple[int, int], meeting: Path) -> int:
    if child := os.fork():
        return child
    try:
        os.environ["LIMNER_CACHE"] = str(run.with_name(f"{run.name}-cache"))
        rank, count = place
        if count > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
            )
        limner_train(recipe, run, Reporter())
    except BaseException:  # noqa: BLE001  whatever it is, nobody else would hear of it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Weights, moments and the average of the newest checkpoint, by name."""
    parts, _ = checkpoint.load(RunDir(run).checkpoints()[-1][1])
    weights = {
        f"{model}.{name}": value for model, state in parts["weights"].items() for name, value in state.items()
    }
    moments = {
        f"{index}.{key}": value
        for index, entry in parts["optimizer"]["state"].items()
        for key, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    return (
        weights
        | moments
        | {f"average.{number}": value for number, value in enumerate(parts["average"] or ())}
    )


def difference(run: Path, other: Path) -> float:
    """The greatest difference between two runs, in parts of the greatest value of a tensor; 0: to the bit.

    Raises:
        SystemExit: They do not have the same tensors.
    """
    first_run, two = tensors(run), tensors(other)
    if first_run.keys() != two.keys():
        raise SystemExit(
            f"{run.name} and {other.name} have other tensors: {sorted(first_run.keys() ^ two.keys())[:3]}"
        )
    gaps = (
        float((two[name].double() - value.double()).abs().max() / value.double().abs().max().clamp_min(1e-12))
        for name, value in first_run.items()
        if value.numel() and not torch.equal(value, two[name])
    )
    return max(gaps, default=0.0)


def setting(base: Path, work: Path, name: str, counts: Sequence[int]) -> dict[str, float]:
    """Differences from the run of one process, by the number of processes; "1" is a second such run."""
    recipe, stem = wish(base, work, SETTINGS[name]), name.replace(" ", "-").replace(",", "")
    whole = train(recipe, work / f"{stem}-1", 1)
    counts = [count for count in counts if count <= recipe.train.batch]  # each computes an image of a step
    runs = {1: work / f"{stem}-again"} | {count: work / f"{stem}-{count}" for count in counts}
    return {str(count): difference(whole, train(recipe, run, count)) for count, run in runs.items()}


def changed_numbers(base: Path, work: Path, counts: Sequence[int] = (2, 3, 1)) -> float:
    """The difference of a run whose stretches of three steps have other numbers of processes."""
    last = 3 * len(counts)
    whole = train(wish(base, work, {}, last), work / "stretches-whole", 1)
    run = work / "stretches"
    for number, count in enumerate(counts, 1):
        train(wish(base, work, {}, 3 * number), run, count)
    return difference(whole, run)


def kill(recipe: Recipe, run: Path, processes: int, rank: int, whole: Path) -> Killed:
    """Kill one process of several in the middle of training, wait, and go on.

    Raises:
        SystemExit: It cannot be killed in time, or the run does not go on.
    """
    command = start(recipe, run, processes)
    while command.poll() is None and _rows(run) < 5:
        time.sleep(0.005)
    _child(command.pid, rank).send_signal(signal.SIGKILL)
    begin = time.monotonic()
    end = ended(command)
    seconds = time.monotonic() - begin
    if end.code == 0:
        raise SystemExit(f"{run.name}: the command ended well, though a process was killed")
    saved = RunDir(run).checkpoints()[-1][0]
    train(recipe, run, processes)
    lines = [line for line in end.words.splitlines() if "error" in line]
    is_same = difference(whole, run) == 0.0
    return Killed(processes, rank, round(seconds, 2), lines, saved, is_same)


def _rows(run: Path) -> int:
    path = RunDir(run).metrics_path
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _child(pid: int, rank: int) -> psutil.Process:
    for child in psutil.Process(pid).children():
        if child.environ().get("RANK") == str(rank):
            return child
    raise SystemExit(f"process {rank} is not there")


def kills(recipe: Recipe, work: Path, counts: Sequence[int]) -> list[Killed]:
    """Each process of each number of processes, once."""
    rows_done = []
    for count in counts:
        whole = train(recipe, work / f"unkilled-{count}", count)
        for rank in range(count):
            rows_done.append(kill(recipe, work / f"killed-{count}-{rank}", count, rank, whole))
            print(asdict(rows_done[-1]), flush=True)
    return rows_done


def faults(gaps: dict[str, dict[str, float]], stretches: float, kill_rows: Sequence[Killed]) -> list[str]:
    """What does not hold of what is promised."""
    lines = [f"{name}: one process twice is not the same" for name, row in gaps.items() if row["1"]]
    lines += [
        f"{name}: two processes differ by {gaps[name]['2']:.1e}"
        for name in TO_THE_BIT
        if gaps.get(name, {}).get("2")
    ]
    for name, row in {**gaps, "2 -> 3 -> 1": {"all": stretches}}.items():
        lines += [
            f"{name}: {count} processes differ by {gap:.1e}" for count, gap in row.items() if gap > ROUNDING
        ]
    for kill_row in kill_rows:
        place = f"process {kill_row.rank} of {kill_row.processes} killed"
        lines += [f"{place}: the others took {kill_row.seconds} s"] if kill_row.seconds > BOUND else []
        lines += (
            []
            if len(kill_row.words) == 1 and f"Process {kill_row.rank} " in kill_row.words[0]
            else [f"{place}: {kill_row.words}"]
        )
        lines += [] if kill_row.is_same else [f"{place}: went on to another end"]
    return lines


def _shown(gap: float | None) -> str:
    return "-" if gap is None else f"{gap:.1e}" if gap else "0"


def main() -> None:
    """Train, kill, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a folder in diffusers layout")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--work", type=Path, help="folder that is kept; left out: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limner-processes-") as temporary:
        work = args.work or Path(temporary)
        base = args.base or tiny(work / "base")
        prepare(base, work)
        gaps = {}
        for name in SETTINGS:
            gaps[name] = setting(base, work, name, args.processes)
            print(name, gaps[name], flush=True)
        stretches = changed_numbers(base, work)
        kill_rows = kills(wish(base, work, {}, KILL_STEPS), work, args.processes)
        (work / "split").mkdir(exist_ok=True)
        killed_split = kills(wish(base, work, SPLIT, KILL_STEPS), work / "split", (2,))
    header = ("setting", "1 again", *(f"{count} processes" for count in args.processes))
    rows = [
        [name, *(_shown(row.get(str(count))) for count in (1, *args.processes))] for name, row in gaps.items()
    ]
    print(table(header, rows))
    print(f"2 -> 3 -> 1 processes, three steps each: {stretches:.1e}")
    slowest = max((kill_row.seconds for kill_row in kill_rows), default=0.0)
    print(f"{len(kill_rows)} kills: the others had ended after {slowest} s at most")
    fault_list = faults(gaps, stretches, [*kill_rows, *killed_split])
    facts = {
        "differences": gaps,
        "2 -> 3 -> 1": stretches,
        "kills": [asdict(kill_row) for kill_row in kill_rows],
    }
    facts |= {"kills of split weights": [asdict(kill_row) for kill_row in killed_split]}
    print(save("processes", {**facts, "to_the_bit": TO_THE_BIT, "rounding": ROUNDING, "broken": fault_list}))
    if fault_list:
        raise SystemExit("\n".join(fault_list))


if __name__ == "__main__":
    main()
