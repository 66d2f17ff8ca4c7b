"""Are two machines one, whatever they share, and do they notice that one of them is gone?

    python -m benchmarks.robustness.machines [--work FOLDER]

Two network namespaces with a cable between them (veth), hostnames of their own, and torchrun in each, which
starts a process each over gloo; wants the rights to make namespaces. Compared with the run of one process
are all tensors of the last checkpoint.

* Folders of their own, and ``--rdzv-backend c10d``: equal to the bit.
* A common cache, and a common run folder that the second machine may only read: equal to the bit, no entry
  of the cache is missing, and nothing half-written is left.
* All that runs on the first or on the second machine is killed in the middle of training, or the cable is
  pulled: the seconds until the other one, or both, have ended, and what they said. Started again, the run
  ends like one that nobody disturbed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.outcome import save, table
from benchmarks.robustness.kill import prepare, tiny
from benchmarks.robustness.processes import difference, train, wish

from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir

ADDRESSES = ("10.213.77.1", "10.213.77.2")
STEPS = 40
BOUND = 90.0
"""Seconds that a machine may take to end when the other one is gone: 60 until the system gives it up."""
PORT = 29417


class NoSpaces(Exception):  # noqa: N818  not an error of the program: this computer cannot do it
    """Why network namespaces cannot be made here."""


def ip(*words: str) -> str:
    """The command of that name; what it says."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, a veth pair between them.

    Raises:
        NoSpaces: They cannot be made.
    """
    if not shutil.which("ip") or not shutil.which("unshare"):
        raise NoSpaces("no `ip` and `unshare` here, which make network namespaces")
    names = tuple(f"limner-{os.getpid()}-{number}" for number in range(2))
    try:
        _cable(names)
    except subprocess.CalledProcessError as error:
        raise NoSpaces(f"network namespaces cannot be made here: {error.stderr.strip()}") from error
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


class Machines:
    """Two machines with a folder each, on which torchrun starts a process each.

    Args:
        root: Folder of both.
        spaces: Their network namespaces.
        is_common: Whether run and cache folder are one for both; the second may only read the run folder.
        by_c10d: Whether they meet by ``--rdzv-backend c10d``.
        program: What each runs, followed by ``train``.
    """

    def __init__(
        self,
        root: Path,
        spaces: tuple[str, str],
        *,
        is_common: bool = False,
        by_c10d: bool = False,
        program: Sequence[str] = ("-m", "limner"),
    ) -> None:
        """See the class."""
        self.spaces, self.is_common, self.by_c10d, self.program = spaces, is_common, by_c10d, program
        self.homes = [root / f"machine-{number}" for number in range(2)]
        for home in self.homes:
            (home / "limner").mkdir(parents=True)
        if is_common:
            self.run(0).path.mkdir()

    def start(self, recipe: Recipe) -> list[subprocess.Popen[str]]:
        """The same command on both."""
        return [self._start(number, recipe) for number in range(2)]

    def run(self, number: int) -> RunDir:
        """The run folder of a machine."""
        return RunDir(self._place(number) / "run")

    def cache_keys(self, number: int) -> set[str]:
        """Names of the entries of a machine's cache."""
        return {path.name for path in (self._place(number) / "cache").glob("??/*.safetensors")}

    def kill(self, number: int) -> None:
        """All that runs on a machine."""
        for pid in ip("netns", "pids", self.spaces[number]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def pull_cable(self, *, up: bool = False) -> None:
        """Part them, or put the cable back."""
        ip("-n", self.spaces[0], "link", "set", "cable", "up" if up else "down")

    def _place(self, number: int) -> Path:
        return self.homes[0 if self.is_common else number]

    def _start(self, number: int, recipe: Recipe) -> subprocess.Popen[str]:
        home, run = self.homes[number], self.run(number).path
        path = home / "recipe.toml"
        path.write_text(toml.dump(recipe), encoding="utf-8")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        if self.by_c10d:
            launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}", "--rdzv-id=limner"]
            launcher += [f"--local-addr={ADDRESSES[number]}", f"--rdzv-conf=is_host={1 - number}"]
        else:
            launcher += [f"--node_rank={number}", f"--master_addr={ADDRESSES[0]}", f"--master_port={PORT}"]
        command = [*launcher, *self.program, "train", str(path), "--out", str(run)]
        script = f'hostname machine-{number} && exec "$@"'
        if self.is_common and number:
            script = f"mount --bind '{run}' '{run}' && mount -o remount,ro,bind '{run}' && {script}"
        space = ["ip", "netns", "exec", self.spaces[number]]
        space += ["unshare", "--uts", "--mount", "sh", "-c", script, "sh"]
        variables = {"LIMNER_CACHE": str(self._place(number) / "cache"), "XDG_CACHE_HOME": str(home)}
        return subprocess.Popen(
            [*space, *command],
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def disturbed(
    machines: Machines, recipe: Recipe, act: Callable[[], None], *, rows: int = 6, wait: float = 3600.0
) -> list[tuple[float, list[str]]]:
    """Do something in the middle of training: for each machine the seconds until it ended, and our lines.

    Raises:
        RuntimeError: A machine ended before, ended well, or does not end.
    """
    commands = machines.start(recipe)
    path, deadline = machines.run(0).metrics_path, time.monotonic() + wait
    while not path.exists() or path.read_bytes().count(b"\n") < rows:
        if time.monotonic() > deadline or any(command.poll() is not None for command in commands):
            raise RuntimeError("\n".join(command.communicate()[1][-3000:] for command in commands))
        time.sleep(0.01)
    act()
    start, seconds = time.monotonic(), {}
    while len(seconds) < len(commands):
        for number, command in enumerate(commands):
            if number not in seconds and command.poll() is not None:
                seconds[number] = round(time.monotonic() - start, 1)
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {wait} s only {sorted(seconds)} have ended")
        time.sleep(0.01)
    ends = []
    for number, command in enumerate(commands):
        words = command.communicate()[1]
        if command.returncode == 0:
            raise RuntimeError(f"machine {number} ended well:\n{words[-3000:]}")
        lines = [line for line in words.splitlines() if line.startswith("limner: error")]
        ends.append((seconds[number], lines))
    return ends


def finish(machines: Machines, recipe: Recipe) -> None:
    """Train to the end.

    Raises:
        RuntimeError: It fails.
    """
    for command in machines.start(recipe):
        words = command.communicate()[1]
        if command.returncode:
            raise RuntimeError(words[-3000:])


@dataclass(frozen=True)
class Outcome:
    """What became of a run on two machines."""

    name: str
    gap: float
    """Greatest difference from the run of one process, in parts of a tensor's greatest value."""
    seconds: tuple[float, ...] = ()
    """Until each machine had ended that nobody killed, where they were disturbed."""
    words: tuple[str, ...] = ()
    """What they said."""
    remains: tuple[str, ...] = ()
    """Files that should not be there, or are missing."""


def alike(name: str, machines: Machines, recipe: Recipe, whole: Path) -> Outcome:
    """A run that nobody disturbs."""
    finish(machines, recipe)
    keys = {path.name for path in whole.with_name(f"{whole.name}-cache").glob("??/*.safetensors")}
    remains = [
        f"cache of machine {number}: {key}"
        for number in range(2)
        for key in keys ^ machines.cache_keys(number)
    ]
    if not machines.is_common and machines.run(1).path.exists():
        remains.append(str(machines.run(1).path))
    folders = {machines.run(number).path.parent for number in range(2)}
    remains += [path.name for folder in folders for path in folder.rglob("*.draft*")]
    remains += [path.name for folder in folders for path in folder.glob("cache/leases/*.json")]
    return Outcome(name, difference(whole, machines.run(0).path), remains=tuple(remains))


def lost(name: str, machines: Machines, recipe: Recipe, whole: Path, victim: int | None = None) -> Outcome:
    """A run of which a machine is killed, or else the cable pulled, and which then goes on."""
    act = machines.pull_cable if victim is None else lambda: machines.kill(victim)
    ends = disturbed(machines, recipe, act)
    machines.pull_cable(up=True)
    finish(machines, recipe)
    rest = [end for number, end in enumerate(ends) if number != victim]
    words = tuple(line for _, lines in rest for line in lines)
    return Outcome(
        name, difference(whole, machines.run(0).path), tuple(seconds for seconds, _ in rest), words
    )


def faults(rows: Sequence[Outcome]) -> list[str]:
    """What does not hold of what is promised."""
    lines = [f"{row.name}: {row.gap:.1e} from one process" for row in rows if row.gap]
    lines += [f"{row.name}: {row.remains}" for row in rows if row.remains]
    lines += [
        f"{row.name}: {row.seconds} s, {row.words}"
        for row in rows
        if max(row.seconds, default=0.0) > BOUND or len(row.words) != len(row.seconds)
    ]
    return lines


def outcomes(work: Path, spaces: tuple[str, str]) -> Iterator[Outcome]:
    """Each case in turn."""
    base = tiny(work / "base")
    prepare(base, work)
    recipe = wish(base, work, {}, STEPS)
    whole = train(recipe, work / "whole", 1)
    yield alike("folders of their own", Machines(work / "own", spaces), recipe, whole)
    yield alike("c10d", Machines(work / "c10d", spaces, by_c10d=True), recipe, whole)
    yield alike("common folders", Machines(work / "common", spaces, is_common=True), recipe, whole)
    for number in range(2):
        machines = Machines(work / f"killed-{number}", spaces)
        yield lost(f"machine {number} killed", machines, recipe, whole, number)
    yield lost("cable pulled", Machines(work / "pulled", spaces), recipe, whole)
    machines = Machines(work / "pulled-common", spaces, is_common=True)
    yield lost("cable pulled, common folders", machines, recipe, whole)


def main() -> None:
    """Train, part, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder that is kept; left out: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limner-machines-") as temporary, namespaces() as spaces:
        rows = []
        for row in outcomes(args.work or Path(temporary), spaces):
            rows.append(row)
            print(asdict(row), flush=True)
    cells = [
        [row.name, f"{row.gap:.1e}" if row.gap else "0", ", ".join(map(str, row.seconds)) or "-"]
        for row in rows
    ]
    print(table(("two machines", "difference", "seconds"), cells))
    fault_list = faults(rows)
    print(save("machines", {"outcomes": [asdict(row) for row in rows], "broken": fault_list}))
    if fault_list:
        raise SystemExit("\n".join(fault_list))


if __name__ == "__main__":
    main()
