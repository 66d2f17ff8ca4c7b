"""Several processes that begin as copies of this one and meet in a group: in no time."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from limner.recipe import Recipe
from limner.reporter import Reporter
from limner.runs import train


def forked(count: int, meeting: Path, act: Callable[[], None]) -> None:
    """Do something in so many processes, which meet at a file; what fails in one fails here."""
    children = [_fork(rank, count, meeting, act) for rank in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    words = [path.read_text() for path in sorted(meeting.parent.glob(f"{meeting.name}.*"))]
    assert not any(codes), "\n".join(words)[-3000:]


def train_forked(count: int, meeting: Path, runs: Sequence[tuple[Recipe, Path]]) -> None:
    """Train each recipe into its folder, one after the other."""

    def act() -> None:
        for recipe, folder in runs:
            train(recipe, folder, Reporter())

    forked(count, meeting, act)


def _fork(rank: int, count: int, meeting: Path, act: Callable[[], None]) -> int:
    if child := os.fork():
        return child
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
        act()
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001  whatever it is, nobody else would hear of it
        meeting.with_name(f"{meeting.name}.{rank}").write_text(traceback.format_exc())
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
