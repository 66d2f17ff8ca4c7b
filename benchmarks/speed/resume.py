"""From the command to the next step: fresh, fresh on a full cache, resumed; as whole processes.

    python -m benchmarks.speed.resume [--base glyph] [--rounds 5] [--images 10] [--threads 2]

Each case is ``limner train`` in a process of its own, timed from outside by the rows that appear in its
``metrics.jsonl``; the cases take turns. Samples are off: painting the base is not part of starting. A fresh
run also measures the validation loss of the base before its first step. Then each case runs once more a round
with clocks around the parts of the verb, which tell where the time goes: loading libraries, reading the
folder, looking for a checkpoint, the cache (filled or verified), loading the models, the rest up to the step;
in wall time and in CPU time of the process, which others on the machine disturb less. Last: the bytes that a
checkpoint takes beside those of the numbers that it must hold, and how long it takes to write.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.outcome import medians, save, table
from benchmarks.speed.decode import photo
from benchmarks.watched import metrics_file, run

from limner.run_folder import RunDir

LIMIT = 8.0
"""Seconds from the command to the next step of a resumed run, on two cores that do nothing else."""
CASES = ("fresh", "fresh, cache full", "resumed")
PARTS = ("libraries", "folder", "checkpoint", "cache", "models", "first step")
CLOCKS = {
    "resolve": "folder",
    "newest": "checkpoint",
    "fill_cache_with_fallback": "cache",
    "TrainableModel": "models",
}
"""Function of ``limner.training.train`` -> the part that it is."""
STEPS = 4
START = "LIMNER_BENCHMARK_START"
"""Environment variable: when the command was given, seconds since the epoch."""
SAVED = 2
"""The step that a resumed run goes on from."""


def recipe(base: str, work: Path, cache: Path) -> Path:
    """A short run with rank 16 on every linear layer."""
    text = f"""
base = {json.dumps(base)}
[data]
images = {json.dumps(str(work / "images"))}
cache = {json.dumps(str(cache))}
trigger = "sks"
[train]
steps = {STEPS}
batch = 4
save_every = {SAVED}
[sample]
every = -1
"""
    path = cache.parent / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def stage(case: str, base: str, work: Path, turn: Path) -> tuple[Path, Path]:
    """A recipe and a run folder in the state that the case starts from."""
    turn.mkdir()
    out, cache = turn / "out", turn / "cache"
    if case != "fresh":
        shutil.copytree(work / "done" / "cache", cache)
    if case == "resumed":
        shutil.copytree(work / "done" / "out", out)
        folder = RunDir(out)
        folder.checkpoint_path(STEPS).unlink()
        folder.lora_path.unlink()
        folder.truncate(SAVED)
    return recipe(base, work, cache), out


def command(recipe: Path, out: Path) -> list[str]:
    """What a person types."""
    return [str(Path(sys.executable).with_name("limner")), "train", str(recipe), "--out", str(out)]


def to_next_step(case: str, options: argparse.Namespace, work: Path, turn: Path) -> float:
    """Seconds from the command to the row of the next step."""
    path, out = stage(case, options.base, work, turn)
    eye = metrics_file(out / "metrics.jsonl", turn / "log.txt")
    watch = run(command(path, out), eye, log=turn / "log.txt", environment=threads(options))
    return watch.ended[SAVED + 1 if case == "resumed" else 1]


def parts_of(case: str, options: argparse.Namespace, work: Path, turn: Path) -> dict[str, float]:
    """The same once more, with clocks inside."""
    path, out = stage(case, options.base, work, turn)
    aside, log = turn / "parts.json", turn / "log.txt"
    words = [sys.executable, "-m", "benchmarks.speed.resume", "--inside", str(aside), *command(path, out)[1:]]
    environment = {**threads(options), START: repr(time.time())}
    run(words, metrics_file(out / "metrics.jsonl", log), log=log, environment=environment)
    return json.loads(aside.read_text())


def threads(options: argparse.Namespace) -> dict[str, str]:
    """Environment of a measured process."""
    return {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}


def inside(aside: Path, arguments: list[str]) -> None:
    """Run the command line in this process with clocks around the parts of the verb; write what they said."""
    from limner.cli.app import main
    from limner.imports import swiftly

    with swiftly():
        from limner import runs
        from limner.training import train as verb
    durations = dict.fromkeys(PARTS, (0.0, 0.0)) | {"libraries": _since_command()}
    for name, part in CLOCKS.items():
        setattr(verb, name, _clocked(getattr(verb, name), part, durations))

    class Folder(RunDir):
        def log(self, row: Mapping[str, Any]) -> None:
            super().log(row)
            if "loss" in row and not aside.exists():
                whole = _since_command()
                durations["first step"] = _minus(
                    whole, tuple(map(sum, zip(*durations.values(), strict=True)))
                )
                aside.write_text(json.dumps(_flat({**durations, "whole": whole})))

    runs.RunDir = Folder
    main(arguments)


def _since_command() -> tuple[float, float]:
    return time.time() - float(os.environ[START]), time.process_time()


def _minus(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


def _flat(durations: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    names = {f"{part}{kind}": index for part in durations for index, kind in enumerate(("", ", CPU"))}
    return {name: durations[name.removesuffix(", CPU")][index] for name, index in names.items()}


def _clocked(function: Callable[..., Any], part: str, durations: dict[str, Any]) -> Callable[..., Any]:
    def timed(*values: Any, **keywords: Any) -> Any:
        start = _since_command()
        try:
            return function(*values, **keywords)
        finally:
            took = _minus(_since_command(), start)
            durations[part] = (durations[part][0] + took[0], durations[part][1] + took[1])

    return timed


def checkpoint_facts(out: Path) -> dict[str, float]:
    """Bytes of a checkpoint beside those of its numbers, and seconds to write it again."""
    from limner.training import checkpoint

    folder = RunDir(out)
    path = folder.checkpoint_path(STEPS)
    parts, facts = checkpoint.load(path)
    weights = [tensor for model in parts["weights"].values() for tensor in model.values()]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        checkpoint.save(path, parts, facts)
        times.append(time.perf_counter() - start)
    trained = sum(tensor.numel() for tensor in weights)
    return {
        "trained": trained,
        "bytes": path.stat().st_size,
        "bytes_needed": trained * 3 * 4,
        "save_s": statistics.median(times),
        "lora_bytes": folder.lora_path.stat().st_size,
    }


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All rounds of all cases."""
    (work / "images").mkdir()
    for index in range(options.images):
        photo(index, 512, 512).save(work / "images" / f"{index}.jpg", quality=92)
    (work / "done").mkdir()
    done_folder = work / "done"
    path = recipe(options.base, work, done_folder / "cache")
    eye = metrics_file(done_folder / "out" / "metrics.jsonl", done_folder / "log.txt")
    run(command(path, done_folder / "out"), eye, log=done_folder / "log.txt", environment=threads(options))
    rows: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for round_ in range(options.rounds):
        for case in CASES:
            seconds = to_next_step(case, options, work, work / f"{case}-{round_}")
            parts = parts_of(case, options, work, work / f"{case}-{round_}-parts")
            rows[case].append({"to_next_step": seconds, **parts})
            print(f"round {round_ + 1}, {case}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        "medians": {case: medians(figures) for case, figures in rows.items()},
        "least": {case: min(row["to_next_step"] for row in figures) for case, figures in rows.items()},
        "rows": rows,
        "checkpoint": checkpoint_facts(done_folder / "out"),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    middle = figures["medians"]
    lines = [["command to next step, s", *(f"{middle[case]['to_next_step']:.2f}" for case in CASES)]]
    lines += [["least of the rounds, s", *(f"{figures['least'][case]:.2f}" for case in CASES)]]
    for part in ("whole", *PARTS):
        cells = (f"{middle[case][part]:.2f} / {middle[case][f'{part}, CPU']:.2f}" for case in CASES)
        lines.append([f"  {part}, wall / CPU", *cells])
    print(table(["", *CASES], lines))
    size = figures["checkpoint"]
    print(
        f"a checkpoint: {size['bytes'] / 1e6:.2f} MB for {size['trained']:,.0f} trained numbers, "
        f"{size['bytes'] / size['bytes_needed']:.3f}x of weights and two moments in fp32; "
        f"written, synced and read back in {size['save_s'] * 1e3:.0f} ms; the LoRA file: "
        f"{size['lora_bytes'] / 1e6:.2f} MB"
    )
    is_reached = figures["least"]["resumed"] <= LIMIT
    verdict = "reached" if is_reached else "missed"
    print(f"wanted: resumed within {LIMIT:.0f} s: {verdict} (least of the rounds)")


def main() -> None:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="glyph", help="a registered name or a folder in diffusers layout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="resume", help="of the JSON file in benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options, Path(temporary))
    show(figures)
    print(save(options.name, {"settings": vars(options), "wanted_s": LIMIT, **figures}))


if __name__ == "__main__":
    main()
