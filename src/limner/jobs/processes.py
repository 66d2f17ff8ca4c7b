"""Processes that may be gone: named for good by number, computer and start."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from limner.errors import LimnerError
from limner.run_folder import RunDir
from limner.status import Requests, RunStatus, read_status

TOLERANCE = 2.0
"""Seconds by which two readings of a process's start may differ: Linux counts from a rounded boot time."""


@dataclass(frozen=True)
class ProcessName:
    """One process, told from a later one with the same number."""

    pid: int
    host: str
    start: float
    """When it began, in seconds since 1970."""

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, of this computer."""
        return self.host == socket.gethostname()


def name_of(pid: int | None = None) -> ProcessName:
    """Name a living process; None: this one.

    Raises:
        psutil.Error: It is gone.
    """
    number = os.getpid() if pid is None else pid
    return ProcessName(number, socket.gethostname(), psutil.Process(number).create_time())


def name_from(value: Any) -> ProcessName | None:
    """Read a name from JSON, ``{"pid": 1, "host": "pc", "start": 1.7e9}``; None: it is something else."""
    match value:
        case {"pid": int(pid), "host": str(host), "start": int() | float() as start}:
            return ProcessName(pid, host, float(start))
    return None


def find(name: ProcessName | None) -> psutil.Process | None:
    """The process of this computer that bears a name; None when it has ended, or is of another computer.

    One that has ended and waits for its parent to take note (a zombie) has ended.
    """
    if name is None or not name.is_here:
        return None
    try:
        process = psutil.Process(name.pid)
        is_same = abs(process.create_time() - name.start) < TOLERANCE
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError):
        return None


def run_status(run: Path | None, begin_time: float | None) -> RunStatus | None:
    """What the run folder of a job says, unless that is of an earlier call.

    Args:
        run: The run folder, where the job has one.
        begin_time: When the job began, in seconds since 1970.
    """
    if run is None or begin_time is None:
        return None
    status = read_status(run)
    return status if status and status.started >= begin_time - TOLERANCE else None


def ask_run(run: Path | None, begin_time: float | None) -> bool:
    """Ask a training in its run folder to save and end, which may be repeated; false where none runs there.

    A second signal would not wait, and when a computer shuts down the system signals every process besides.
    """
    status = run_status(run, begin_time)
    if run is not None and status is not None and status.state == "running":
        with suppress(LimnerError, OSError):  # it has ended meanwhile, or the disk is full
            Requests(RunDir(run)).send("stop")
            return True
    return False


def ask_to_end(process: psutil.Process, run: Path | None, begin_time: float | None) -> None:
    """Ask a command to end: a training in its folder, all else by SIGTERM, on which trainings save, too."""
    if not ask_run(run, begin_time):
        with suppress(psutil.Error):
            process.terminate()


def kill(process: psutil.Process) -> None:
    """End a command and what it has started, at once."""
    with suppress(psutil.Error):
        for child in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                child.kill()


def died_of(exit_code: int, names: Mapping[int, str]) -> str:
    """Say which signal ended a process: ``died_of(-9, {9: "SIGKILL"})``; "" where none did."""
    if exit_code >= 0:
        return ""
    name = names.get(-exit_code, f"signal {-exit_code}")
    cause = " The system does that when memory runs out." if name == "SIGKILL" else ""
    return f"The process was ended from outside, by {name}.{cause}"
