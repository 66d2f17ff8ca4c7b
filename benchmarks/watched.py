"""Runs a command as a whole process: when each training step ended, how long it took, its peak memory.

Loads no torch: what Linux reports as a child's peak starts from its parent's, so the parent must stay
small.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL = 0.004
"""Seconds between two looks at a metrics file: the resolution of its step times."""


@dataclass
class Watch:
    """What is known of one run. ``ended`` maps each step (1 is the first) to seconds since the command."""

    ended: dict[int, float] = field(default_factory=dict)
    wall: float = 0.0
    peak_bytes: int = 0

    def columns(self) -> dict[str, float]:
        """First step, seconds a step after it, whole time (seconds) and peak memory (bytes)."""
        first, last = min(self.ended), max(self.ended)
        return {
            "first_step": self.ended[first],
            "step": (self.ended[last] - self.ended[first]) / max(last - first, 1),
            "wall": self.wall,
            "peak_bytes": float(self.peak_bytes),
        }


Eye = Callable[[Watch, float, "subprocess.Popen[bytes]"], None]


def progress_bar(log: Path, start_label: str) -> Eye:
    """Read steps from the lines ``Steps: 3%| | 3/100 [.., loss=..`` that a bar redraws on stderr."""
    shape = re.compile(rf"{re.escape(start_label)}[^|]*\|[^|]*\|\s*(\d+)/\d+ \[[^\]]*loss=".encode())

    def watch(run: Watch, start: float, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        rest = b""
        with log.open("ab") as file:
            while block := os.read(process.stderr.fileno(), 65536):
                now = time.perf_counter() - start
                file.write(block)
                *lines, rest = re.split(rb"[\r\n]", rest + block)
                for match in filter(None, map(shape.search, [*lines, rest])):
                    run.ended.setdefault(int(match[1]), now)

    return watch


def metrics_file(path: Path, log: Path) -> Eye:
    """Read steps from the rows with a step and a loss that a run appends to its metrics file."""

    def watch(run: Watch, start: float, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        drain = threading.Thread(target=_drain, args=(process.stderr.fileno(), log))
        drain.start()
        offset = 0
        while True:
            over = not drain.is_alive()
            text = path.read_bytes() if path.exists() else b""
            now = time.perf_counter() - start
            whole = text.rfind(b"\n") + 1
            for line in text[offset:whole].splitlines():
                row = json.loads(line)
                if row.get("step") and "loss" in row:
                    run.ended.setdefault(row["step"], now)
            offset = whole
            if over:
                break
            time.sleep(POLL)
        drain.join()

    return watch


def _drain(handle: int, log: Path) -> None:
    with log.open("ab") as file:
        while block := os.read(handle, 65536):
            file.write(block)


def as_installed() -> dict[str, str]:
    """The environment, without an order to compile every module of Python anew at each start."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def run(
    command: Sequence[str], eye: Eye, *, log: Path, environment: Mapping[str, str] | None = None
) -> Watch:
    """Run ``command`` to its end and return what was seen of it.

    Raises:
        RuntimeError: The command failed or no step was seen; the message names the log.
    """
    watch = Watch()
    with log.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.PIPE, env={**as_installed(), **(environment or {})}
        )
        eye(watch, start, process)
        _, status, usage = os.wait4(process.pid, 0)
        watch.wall = time.perf_counter() - start
        assert process.stderr is not None
        process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    watch.peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if process.returncode or not watch.ended:
        reason = f"ended with {process.returncode}" if process.returncode else "showed no step"
        raise RuntimeError(f"{' '.join(command[:4])} .. {reason}; its output is in {log}")
    return watch
