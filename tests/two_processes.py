"""A training in two processes of this machine, started as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from limner.recipe import Recipe, toml


def train_in_two(recipe: Recipe, folder: Path) -> None:
    """Train into ``folder / "two"``, with a cache of its own."""
    path = folder / "recipe.toml"
    path.write_text(toml.dump(recipe))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "-m", "limner", "train", str(path), "--out", str(folder / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "LIMNER_CACHE": str(folder / "fresh"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
