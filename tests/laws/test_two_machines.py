"""Two machines = one: network namespaces with a cable between them, hostnames and folders of their own.

Only the first process writes the run; each machine fills its own cache; one that is lost ends the other in a
line, and the run goes on, to the bit, as that of one process.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import checkpoint
from waiting import LONGEST

ADDRESSES = ("10.213.77.1", "10.213.77.2")
STEPS = 40
BOUND = 30.0
"""Seconds that a machine may take to notice that the other is gone."""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, a veth pair between them."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("no `ip` and `unshare` here, which make network namespaces")
    names = tuple(f"limner-{os.getpid()}-{number}" for number in range(2))
    try:
        _cable(names)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    try:
        yield names[0], names[1]
    finally:
        for name in names:
            for pid in ip("netns", "pids", name).split():
                os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name)


def _cable(names: Sequence[str]) -> None:
    for name in names:
        ip("netns", "add", name)
    ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
    for name, address in zip(names, ADDRESSES, strict=True):
        for words in (("addr", "add", f"{address}/24", "dev", "cable"), ("link", "set", "cable", "up")):
            ip("-n", name, *words)
        ip("-n", name, "link", "set", "lo", "up")


def wish(base: Path, photos: Path, steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(base),
            "data": {"images": str(photos), "flip": True, "caption_dropout": 0.3, "trigger": "zorb"},
            "lora": {"rank": 3, "dropout": 0.1},
            "train": {"steps": steps, "batch": 4, "save_every": 3, "ema": 0.9, "schedule": "constant"},
            "sample": {"every": -1},
            "limits": {"micro_batch": 2, "device": "cpu"},
        }
    )


class Machines:
    """Two machines with a folder each, on which torchrun starts a process each."""

    def __init__(self, root: Path, spaces: tuple[str, str], profiles: Path) -> None:
        self.spaces = spaces
        self.homes = [root / f"machine-{number}" for number in range(2)]
        for home in self.homes:
            (home / "limner").mkdir(parents=True)
            (home / "limner/profiles").symlink_to(profiles)

    def start(self, recipe: Recipe) -> list[subprocess.Popen[str]]:
        """The same command on both."""
        return [self._start(number, recipe) for number in range(2)]

    def run(self, number: int) -> RunDir:
        return RunDir(self.homes[number] / "run")

    def kill(self, number: int) -> None:
        """All that runs on a machine."""
        for pid in ip("netns", "pids", self.spaces[number]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def _start(self, number: int, recipe: Recipe) -> subprocess.Popen[str]:
        home = self.homes[number]
        path = home / "recipe.toml"
        path.write_text(toml.dump(recipe))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        launcher += [f"--node_rank={number}", f"--master_addr={ADDRESSES[0]}", "--master_port=29417"]
        command = [*launcher, "-m", "limner", "train", str(path), "--out", str(home / "run")]
        within = f'hostname machine-{number} && exec "$@"'
        space = ["ip", "netns", "exec", self.spaces[number], "unshare", "--uts", "sh", "-c", within, "sh"]
        variables = {"LIMNER_CACHE": str(home / "cache"), "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*space, *command],
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def state(run: RunDir) -> dict[str, torch.Tensor]:
    parts, _ = checkpoint.load(run.checkpoints()[0][1])
    return {
        f"{model}.{name}": value for model, state in parts["weights"].items() for name, value in state.items()
    }


@pytest.mark.slow  # two machines that load torch twice
def test_two_machines_are_one_and_outlive_the_loss_of_one(
    spaces, tiny_base, photos, tmp_path, known_profiles
):
    recipe = wish(tiny_base, photos, STEPS)
    train(recipe, tmp_path / "one", Reporter())
    machines = Machines(tmp_path, spaces, known_profiles)
    first, second = machines.start(recipe)
    deadline = time.monotonic() + LONGEST
    rows = machines.run(0).metrics_path
    while not rows.exists() or rows.read_bytes().count(b"\n") < 6:
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()[1][-3000:]
        time.sleep(0.01)
    begin = time.monotonic()
    machines.kill(1)
    second.communicate()
    words = first.communicate(timeout=LONGEST)[1]
    assert time.monotonic() - begin < BOUND
    errors = [line for line in words.splitlines() if line.startswith("limner: error")]
    assert len(errors) == 1 and "Another process of this run has ended" in errors[0], words
    assert machines.run(0).checkpoints() and not machines.run(1).path.exists()

    for command in machines.start(recipe):
        words = command.communicate(timeout=LONGEST)[1]
        assert command.returncode == 0, words[-3000:]
    assert not machines.run(1).path.exists(), "only the first process writes the run"
    caches = [{path.name for path in (home / "cache").glob("??/*.safetensors")} for home in machines.homes]
    assert caches[0] == caches[1] != set()
    one, two = state(RunDir(tmp_path / "one")), state(machines.run(0))
    assert all(torch.equal(two[name], weight) for name, weight in one.items())
