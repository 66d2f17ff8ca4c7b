"""What a job knows of processes: what its run says, how one is asked to end, or killed."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from limner.errors import LimnerError
from limner.process_names import TOLERANCE
from limner.run_folder import RunDir
from limner.status import Requests, RunStatus, read_status


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
