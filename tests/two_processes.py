"""A training in several processes of this machine, started as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from limner.recipe import Recipe, toml
from waiting import LONGEST

UNEQUAL = Path(__file__).with_name("unequal_devices.py")


def train_in_two(recipe: Recipe, folder: Path) -> None:
    """Train into ``folder / "two"``, with a cache of its own."""
    train_in(2, recipe, folder / "two")


def train_in(count: int, recipe: Recipe, run: Path, *, unequal: bool = False) -> None:
    """Train in so many processes, with a cache of their own; ``unequal``: the last one on a small device."""
    path = run.with_suffix(".toml")
    path.write_text(toml.dump(recipe))
    program = [str(UNEQUAL)] if unequal else ["-m", "limner"]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", *program, "train", str(path), "--out", str(run),
    ]  # fmt: skip
    environment = {**os.environ, "LIMNER_CACHE": str(run.with_name("fresh")), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
