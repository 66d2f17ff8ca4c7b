"""Processes that may be gone: named for good by number, computer and start."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

TOLERANCE = 2.0
"""Seconds by which two readings of a process's start may differ: Linux counts from a rounded boot time."""
PROC = Path("/proc")
"""Where Linux tells of processes; elsewhere there is none."""
START_FIELD = 19
"""Of ``/proc/PID/stat`` behind the name: clock ticks between boot and the start of the process."""


@dataclass(frozen=True)
class ProcessName:
    """One process, told from a later one with the same number."""

    pid: int
    host: str
    start: float
    """When it began, in seconds since 1970; on Linux as its clock has it now."""
    birth: str = ""
    """Boot of the computer and clock ticks from there to its start, which no clock changes; else empty."""

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
    return ProcessName(number, socket.gethostname(), psutil.Process(number).create_time(), birth(number))


def name_from(value: Any) -> ProcessName | None:
    """Read a name from JSON, ``{"pid": 1, "host": "pc", "start": 1.7e9}``; None: it is something else."""
    match value:
        case {"pid": int(pid), "host": str(host), "start": int() | float() as start}:
            text = value.get("birth")
            return ProcessName(pid, host, float(start), text if isinstance(text, str) else "")
    return None


def find(name: ProcessName | None) -> psutil.Process | None:
    """The process of this computer that bears a name; None when it has ended, or is of another computer.

    One that has ended and waits for its parent to take note (a zombie) has ended.
    """
    if name is None or not name.is_here:
        return None
    try:
        process = psutil.Process(name.pid)
        if name.birth:
            is_same = birth(name.pid) == name.birth
        else:
            is_same = abs(process.create_time() - name.start) < TOLERANCE
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError):
        return None


def birth(pid: int) -> str:
    """What tells a process for good, whatever is done to the clock; empty where the system does not say."""
    boot = _boot()
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return f"{boot} {fields[START_FIELD]}" if boot and len(fields) > START_FIELD else ""


@cache
def _boot() -> str:
    try:
        return (PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    except OSError:
        return ""
