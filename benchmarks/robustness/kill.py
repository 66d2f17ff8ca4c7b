"""Kill ``limner train`` at random moments with SIGKILL, start it again, and compare with a run left alone.

    python -m benchmarks.robustness.kill [--base FOLDER] [--rounds 50] [--seed 0]

A round starts the command on a run folder and kills it after a random time: by turns from its first file on,
and from its next row of metrics on, as else a busy machine would see most kills before the first step. The
next round starts the same command on what the killed one left. When a run comes to its end, its losses,
held-out losses, final checkpoint, samples and LoRA must equal, bit for bit, those of the run that nobody
killed; then a new folder begins, with an empty cache. After every kill:

* no file under its final name is half-written: every cache entry, checkpoint, LoRA and picture reads whole;
* nothing finished is lost: the newest whole checkpoint is never older than it was before the round.

Without --base, a random FLUX pipeline of a few thousand weights is made, so that the time goes into kills.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.outcome import save, table
from PIL import Image

from limner.graph.cache import Cache
from limner.lora import file
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.training import checkpoint

STEPS, SAVE_EVERY = 24, 3
PLACES = ("caching", "before the first step", "training", "after the last checkpoint", "not killed: it ended")


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round was."""

    place: str
    """How far the run was: one of :data:`PLACES`."""
    step: int
    """Rows of metrics that were there."""
    saved: int
    """Step of the newest whole checkpoint, 0 for none."""
    seconds: float
    """From when it held the run folder to the kill, or to its end."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A folder to work in, and the recipe that every run in it follows."""

    work: Path
    recipe: Recipe

    def start(self, out: Path, cache: Path) -> subprocess.Popen[bytes]:
        """The command, with a cache of its own."""
        path = self.work / "recipe.toml"
        if not path.exists():
            path.write_text(toml.dump(self.recipe), encoding="utf-8")
        command = [sys.executable, "-m", "limner", "train", str(path), "--out", str(out)]
        environment = {
            **os.environ,
            "LIMNER_CACHE": str(cache),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with (self.work / "log.txt").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def told(self) -> str:
        """The end of what the commands said."""
        return (self.work / "log.txt").read_text(errors="replace")[-2000:]


def prepare(base: Path, work: Path) -> Line:
    """Pictures, and a recipe with flips, dropped captions, an average, samples and held-out losses."""
    images = work / "images"
    images.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(6):
        pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(images / f"{number}.png")
    recipe = Recipe(
        base=str(base),
        data={
            "images": str(images),
            "flip": True,
            "caption_dropout": 0.2,
            "trigger": "zorb",
            "resolution": 32,
        },
        lora={"rank": 2},
        train={
            "steps": STEPS,
            "batch": 2,
            "learning_rate": 1e-2,
            "save_every": SAVE_EVERY,
            "ema": 0.9,
            "keep": 2,
        },
        sample={"every": 2 * SAVE_EVERY, "prompts": ["zorb"], "steps": 1, "width": 32, "height": 32},
    )
    return Line(work, recipe)


def outcome(out: Path) -> dict[str, object]:
    """Everything of a finished run that must not depend on how it came there, by name."""
    run = RunDir(out)
    rows = [(row["step"], row.get("loss"), row.get("norm"), row.get("held_out")) for row in run.metrics()]
    parts, _ = checkpoint.load(run.checkpoint_path(STEPS))
    lora = file.read(run.lora_path).components
    pictures = {
        step: {n: path.read_bytes() for n, path in paths_found.items()}
        for step, paths_found in run.samples().items()
    }
    return {
        "metrics": rows,
        "state": flat(parts),
        "LoRA": flat(lora),
        "pictures": pictures,
        "checkpoints": [step for step, _ in run.checkpoints()],
    }


def flat(value: object) -> object:
    """Nested state with each tensor as its type, shape and bytes: two of them can be compared."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), raw
    if isinstance(value, dict):
        return {key: flat(turn) for key, turn in value.items()}
    if isinstance(value, list | tuple):
        return [flat(turn) for turn in value]
    return flat(vars(value)) if dataclasses.is_dataclass(value) else value


def check(out: Path, cache: Path) -> int:
    """Read every file that a kill left under a final name; the step of the newest checkpoint, 0 for none.

    Raises:
        LimnerError, OSError: One is half-written.
    """
    run = RunDir(out)
    for path in cache.rglob("*.safetensors"):
        if not path.name.startswith("."):
            Cache(cache).read(path.stem)
    steps = [step for step, path in run.checkpoints() if checkpoint.load(path)]
    if run.lora_path.exists():
        file.read(run.lora_path)
    for picture in [path for paths_found in run.samples().values() for path in paths_found.values()]:
        Image.open(picture).convert("RGB").close()
    run.metrics()
    if run.recipe_path.exists():
        toml.load(run.recipe_path)
    return max(steps, default=0)


def wait(process: subprocess.Popen[bytes], out: Path, seconds: float, *, row: bool = False) -> float:
    """Wait until the process holds the run folder and then ``seconds`` more, or for its end.

    Args:
        process: The command.
        out: Its run folder.
        seconds: To wait.
        row: Count them from when it has written another row of metrics.

    Returns:
        Seconds since it held the folder.
    """
    while process.poll() is None and not holds(out, process.pid):
        time.sleep(0.005)
    start = time.monotonic()
    rows = size(out)
    while row and process.poll() is None and size(out) <= rows:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return time.monotonic() - start


def size(out: Path) -> int:
    """Bytes of the metrics so far."""
    path = RunDir(out).metrics_path
    return path.stat().st_size if path.exists() else 0


def holds(out: Path, pid: int) -> bool:
    """Whether the lock of the run folder is signed by a process; a killed one leaves its name there."""
    try:
        return json.loads((out / "lock.json").read_bytes())["pid"] == pid
    except (OSError, ValueError):
        return False


def place_of(out: Path, *, is_over: bool) -> str:
    """How far a run was."""
    run = RunDir(out)
    if is_over:
        return PLACES[4]
    if not run.metrics_path.exists():
        return PLACES[0]
    if run.checkpoint_path(STEPS).exists():
        return PLACES[3]
    return PLACES[2] if len(run.metrics()) > 1 else PLACES[1]


def rounds(line: Line, count: int, seed: int) -> Iterator[Round]:
    """Kill ``count`` times and go on each time, checking everything that the module's text says.

    Raises:
        AssertionError: A promise is broken; the message says which, and in which round.
    """
    whole, draw = line.work / "whole", random.Random(seed)
    alone = line.start(whole, line.work / "whole-cache")
    lasts = wait(alone, whole, 600)
    assert alone.wait() == 0, line.told()
    expected = outcome(whole)
    times = [row["time"] for row in RunDir(whole).metrics()]
    trains = times[-1] - times[0]
    kill_count, is_over, before, has_begun = 0, 0, 0, False
    while kill_count < count or has_begun:
        name = f"run-{seed}-{is_over}"
        out, cache = line.work / name, line.work / f"{name}-cache"
        process = line.start(out, cache)
        late = kill_count % 2 == 1
        pause = draw.uniform(0, 1.2 * trains if late else lasts - trains)
        if kill_count >= count:  # the last run may end
            pause = 600.0
        seconds = wait(process, out, pause, row=late)
        over = process.poll() is not None
        if not over:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL), f"round {kill_count}: {line.told()}"
        saved = check(out, cache)
        assert saved >= before, f"round {kill_count}: step {before} was saved, and step {saved} is left"
        yield Round(place_of(out, is_over=over), len(RunDir(out).metrics()), saved, round(seconds, 3))
        if over:
            result = outcome(out)
            other = [name for name in expected if result[name] != expected[name]]
            assert not other, f"round {kill_count}: the run in {out} ended with other {' and '.join(other)}"
            is_over, before, has_begun = is_over + 1, 0, False
        else:
            kill_count, before, has_begun = kill_count + 1, saved, True


def main() -> None:
    """Kill, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a folder in diffusers layout")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="kill", help="of the JSON file in benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        base = options.base or tiny(work / "base")
        rounds_done = []
        for turn in rounds(prepare(base, work / "line"), options.rounds, options.seed):
            rounds_done.append(turn)
            print(
                f"{len(rounds_done)}: {turn.place}, {turn.seconds} s, step {turn.saved} saved",
                flush=True,
            )
    counts = Counter(turn.place for turn in rounds_done)
    print(table(["how far the run was", "times"], [[place, str(counts[place])] for place in PLACES]))
    kills = sum(turn.place != PLACES[4] for turn in rounds_done)
    print(f"{kills} kills, {counts[PLACES[4]]} runs that ended: no half-written file, nothing finished lost,")
    print("and every run ended bit for bit like the one that nobody killed.")
    facts = {
        "settings": {**vars(options), "base": str(options.base or "tiny")},
        "kills": kills,
        "places": counts,
    }
    print(
        save(
            options.name,
            {**facts, "rounds": [dataclasses.asdict(turn) for turn in rounds_done]},
        )
    )


def tiny(folder: Path) -> Path:
    """A random FLUX pipeline, as the tests use it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from tiny import save_flux

    return save_flux(folder)


if __name__ == "__main__":
    main()
