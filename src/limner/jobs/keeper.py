"""The process that keeps one job: waits for its turn, runs the command, writes down how it ended.

``python -m limner.jobs.keeper FOLDER``. It ends with its job.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from limner.errors import LimnerError
from limner.jobs.job import LINE_LENGTH, Job, read_job
from limner.jobs.job_folder import JobFolder, record_of, tail
from limner.jobs.processes import ask_run, ask_to_end, died_of, run_status
from limner.jobs.queue import Jobs
from limner.process_names import name_of

INTERVAL = 0.25
"""Seconds between two looks for somebody who wants the job to end."""
TURN_INTERVAL = 0.5
"""Seconds between two looks at the queue."""
PATIENCE = 30.0
"""Seconds after which a training that was asked to end is asked again, in its folder."""
RETRIES, RETRY_SECONDS = 120, 5.0
"""How often the end is written again where the disk is full, and how long to wait in between."""
LOCK_SECONDS = 10.0
"""How long to wait for the lock, which whoever looks at the job may hold for a moment."""
ERROR = "limner: error: "
"""How the command line begins its error line."""
SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}
LEFT_OUT = ("LIMNER_SILENT",)
"""Environment variables that are not for the command: it says what it does."""


class Keeper:
    """Keeps one job to its end.

    Args:
        path: The folder of the job.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._files, self._jobs = JobFolder(path), Jobs(path.parent)
        self._number = int(path.name)
        self._record: dict[str, Any] = {"keeper": record_of(name_of())}

    def keep(self) -> None:
        """Wait for the job's turn, run it, and write down how it ended."""
        try:
            lock = FileLock(self._files.lock_path)
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:  # another process keeps it
            return
        try:
            signal.signal(signal.SIGTERM, lambda *_: self._stop())
            self._write()
            self._keep()
        finally:
            lock.release()

    def _keep(self) -> None:
        try:
            if not self._has_turn():
                return
            self._record["started"] = time.time()
            job, values = self._job(), self._files.job()
            if values is None or job is None:
                self._end("failed", line=f"{self._files.job_path} is damaged. Add the job again.")
                return
            child = self._start(job, Path(values["cwd"]))
        except LimnerError as error:
            self._end("failed", line=str(error))
        except (OSError, ValueError, LookupError, TypeError) as error:
            self._end("failed", line=f"The command cannot be started: {error}.")
        else:
            self._watch(child, job)

    def _has_turn(self) -> bool:
        """Wait for the turn; false where the job was stopped first, or removed."""
        job = self._job()
        numbers = None
        while self._files.is_queued():
            numbers = self._jobs.ahead_of(self._number, numbers)
            if job is None or job.device == "cpu" or len(numbers) < self._jobs.at_once:
                return self._files.begins()
            self._jobs.go_on(numbers, exclusions=job.secrets)  # else it would wait for one that nobody begins
            time.sleep(TURN_INTERVAL)
        return False

    def _job(self) -> Job | None:
        return read_job(self._files.path)

    def _start(self, job: Job, folder: Path) -> subprocess.Popen[Any]:
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        values = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
        with self._files.stdout_path.open("ab") as stdout, self._files.stderr_path.open("ab") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "limner", *job.arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**values, "PYTHONIOENCODING": "utf-8:backslashreplace"},
                **options,
            )
        with suppress(psutil.Error):  # it has ended already
            self._record["child"] = record_of(name_of(child.pid))
        self._write()
        return child

    def _watch(self, child: subprocess.Popen[Any], job: Job) -> None:
        """Wait for the command, and ask it to end when somebody wants it to."""
        end = threading.Event()

        def wait() -> None:
            child.wait()
            end.set()

        threading.Thread(target=wait, daemon=True).start()
        next_time = 0.0
        while not end.wait(INTERVAL):
            if not self._files.shall_stop() or time.monotonic() < next_time:
                continue
            if next_time:  # no second signal: a training would not save on that
                ask_run(job.run, self._record["started"])
            else:
                with suppress(psutil.Error):
                    ask_to_end(psutil.Process(child.pid), job.run, self._record["started"])
            next_time = time.monotonic() + PATIENCE
        self._end_by(child.wait(), job)

    def _end_by(self, exit_code: int, job: Job) -> None:
        status = run_status(job.run, self._record["started"])
        is_stopped = self._files.shall_stop() or (status is not None and status.state == "stopped")
        errors = [line.removeprefix(ERROR) for line in tail(job.stderr_path) if line.startswith(ERROR)]
        line = self._files.last_line()
        if exit_code:
            signal_line = "Stopped." if is_stopped else died_of(exit_code, SIGNAL_NAMES)
            line = (errors or [signal_line if exit_code < 0 else line])[-1]
        state = "done" if exit_code == 0 else "stopped" if is_stopped else "failed"
        self._end(state, line=line, exit_code=exit_code)

    def _end(self, state: str, *, line: str, exit_code: int | None = None) -> None:
        values = {"state": state, "line": line[:LINE_LENGTH], "exit_code": exit_code, "ended": time.time()}
        self._record |= values
        for _ in range(RETRIES):
            if self._write() or not self._files.path.exists():
                return
            time.sleep(RETRY_SECONDS)

    def _write(self) -> bool:
        """Write what is known; false where that failed, as with a full disk, which ends no job."""
        try:
            self._files.write_state(self._record)
        except (OSError, LimnerError):
            return False
        return True

    def _stop(self) -> None:
        """SIGTERM came: what holds for this process holds for its command."""
        with suppress(OSError, LimnerError):
            self._jobs.stop(self._number)


def main(path: Path) -> None:
    """Keep a job, unless its folder is gone."""
    if JobFolder(path).job_path.exists():
        Keeper(path).keep()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
