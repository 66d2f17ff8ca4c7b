"""The folder of a job: the one place that knows what its files are called.

``job.json`` says what to do and is written once, before the folder appears. ``queued`` is an empty file that
becomes ``started`` or ``stop`` by a rename, which one process alone can do: so a job that is stopped while it
waits never starts. ``keeper.json`` and ``state.json`` name the processes and say how it ended.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from limner.files import atomic_write
from limner.process_names import ProcessName, find, name_from

TAIL = 16384
"""Bytes at the end of an output that are searched for its last line."""


class JobFolder:
    """Paths and records of one job. Looking creates nothing."""

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path
        self.job_path = path / "job.json"
        self.queued_path = path / "queued"
        self.started_path = path / "started"
        self.stop_path = path / "stop"
        self.lock_path = path / "lock"
        self.keeper_path = path / "keeper.json"
        self.state_path = path / "state.json"
        self.stdout_path = path / "stdout"
        self.stderr_path = path / "stderr"
        self.log_path = path / "keeper.log"

    def job(self) -> dict[str, Any] | None:
        """What to do; None where that cannot be read."""
        return _read(self.job_path)

    def state(self) -> dict[str, Any]:
        """What the keeper wrote last; empty before it did."""
        return _read(self.state_path) or {}

    def write_state(self, value: Mapping[str, Any]) -> None:
        """Replace what is known of the job.

        Raises:
            OSError, DiskFull: It cannot be written.
        """
        write_record(self.state_path, value)

    def begins(self) -> bool:
        """Take the job out of the queue to run it; false where another process took it out to stop it."""
        return _renames(self.queued_path, self.started_path)

    def cancels(self) -> bool:
        """Take the job out of the queue to stop it; false where it has begun, or was stopped before."""
        return _renames(self.queued_path, self.stop_path)

    def is_queued(self) -> bool:
        """Whether it waits."""
        return self.queued_path.exists()

    def has_started(self) -> bool:
        """Whether it was begun."""
        return self.started_path.exists()

    def shall_stop(self) -> bool:
        """Whether somebody wants it to end."""
        return self.stop_path.exists()

    def secrets(self) -> tuple[str, ...]:
        """Names of the environment variables that it was given, whose values no file holds."""
        names = (self.job() or {}).get("secrets")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def is_orphan(self) -> bool:
        """Whether it waits, its keeper is gone with the computer or by force, and another one would do.

        None does where its secrets went as well, or where the last one ended before it had said a word.
        """
        adder, keeper = name_from((self.job() or {}).get("adder")), _read(self.keeper_path)
        if not self.is_queued() or self.has_started() or self.shall_stop() or self.secrets():
            return False
        if adder is None or not adder.is_here or self.has_keeper():
            return False
        return keeper is None or self.state().get("keeper") == keeper

    def has_keeper(self) -> bool:
        """Whether the process that keeps it lives, or the one that is about to start that.

        Of a process that cannot be seen, as it is of another computer, or as this one's clock was set
        since, the lock says.
        """
        names = [name_from(self.state().get("keeper")), name_from(_read(self.keeper_path))]
        if not any(names):
            names = [name_from((self.job() or {}).get("adder"))]
        if any(find(name) for name in names):
            return True
        return any(name and (not name.is_here or _exists(name.pid)) for name in names) and self._is_locked()

    def _is_locked(self) -> bool:
        if not self.lock_path.exists():
            return False
        try:
            with FileLock(self.lock_path, blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # another user's
            return False

    def last_line(self) -> str:
        """The last line on stderr, else the last on stdout that is no JSON, else what its keeper said."""
        for path in (self.stderr_path, self.stdout_path, self.log_path):
            lines = [
                line for line in tail(path) if path != self.stdout_path or not line.startswith(("{", "["))
            ]
            if lines:
                return lines[-1]
        return ""


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; halves of letters, by which Python names odd paths, are escaped.

    Raises:
        OSError, DiskFull: It cannot be written.
    """
    text = json.dumps(dict(value), indent=2) + "\n"
    atomic_write(path, lambda draft: draft.write_text(text, encoding="ascii"))


def record_of(name: ProcessName | None) -> dict[str, Any] | None:
    """A process for a record."""
    return asdict(name) if name else None


def tail(path: Path) -> list[str]:
    """The lines at the end of a text that are not empty; none where there is no file."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            text = file.read().decode("utf-8", errors="backslashreplace")
    except OSError:
        return []
    lines = text.splitlines()[1 if start else 0 :]  # of a longer file the first line is a part of one
    return [line.strip() for line in lines if line.strip()]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _renames(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    return True


def _exists(pid: int) -> bool:
    import psutil

    return pid > 0 and psutil.pid_exists(pid)
