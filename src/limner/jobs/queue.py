"""The jobs of a folder: add, list, stop, remove. There is no server: each job has a process that keeps it."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from limner.errors import BadUsage
from limner.files import new_folder, remove_folder, write_text
from limner.jobs.job import DEVICES, Job, read_job
from limner.jobs.job_folder import JobFolder, record_of, write_record
from limner.jobs.processes import ask_to_end, kill
from limner.process_names import find, name_from, name_of

NUMBER = re.compile(r"\d{4,9}")
"""Name of a job's folder."""
LOCK_SECONDS = 30.0
"""How long to wait for another process that starts keepers."""


class Jobs:
    """Commands of Limner in the background. Looking creates nothing.

    A job on the GPU waits while as many as may run at once, ``at_once``, were added before it and have not
    ended; one on the CPU begins right away. Each outlives the process that added it.

    Args:
        folder: Holds a folder per job, named by its number.
    """

    def __init__(self, folder: Path | str) -> None:
        """See the class."""
        self.folder = Path(folder).absolute()
        self._limit_path = self.folder / "at_once"
        self._last_path = self.folder / "last"

    def add(
        self,
        arguments: Sequence[str],
        *,
        title: str = "",
        run: Path | None = None,
        device: str = "gpu",
        secrets: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Job:
        """Have a command run when its turn comes.

        Args:
            arguments: What follows ``limner`` on the command line.
            title: For people; the command itself when left out.
            run: The run folder that it works in: there it is asked to stop, and what it says there counts.
            device: gpu: waits for its turn; cpu: does not.
            secrets: Environment variables whose values are written to no file, such as keys.
            cwd: Where it runs; the folder of this process when left out.

        Raises:
            BadUsage: It cannot be a job, or the folder cannot be written.
        """
        _require_sense(arguments, device, secrets or {})
        home = Path.cwd() if cwd is None else Path(cwd).absolute()
        record = {
            "arguments": list(arguments),
            "title": title or " ".join(arguments),
            "run": None if run is None else str(home / run),
            "device": device,
            "cwd": str(home),
            "secrets": sorted(secrets or {}),
            "added": time.time(),
            "adder": record_of(name_of()),
        }

        def fill(draft: Path) -> None:
            files = JobFolder(draft)
            write_record(files.job_path, record)
            files.queued_path.touch()

        with self._writable():
            first = 1 + max([*self._numbers(), self._last()], default=0)
            path = new_folder(self.folder, (f"{number:04d}" for number in count(first)), fill)
            try:
                _start_keeper(path, secrets or {})
            except (OSError, ValueError):
                remove_folder(path)
                raise
        return self.get(int(path.name))

    def all(self) -> list[Job]:
        """Every job that was not removed, by number."""
        jobs = (read_job(self._path(number)) for number in self._numbers())
        return [job for job in jobs if job is not None]

    def get(self, number: int) -> Job:
        """One job.

        Raises:
            BadUsage: There is none with this number.
        """
        job = read_job(self._path(number)) if number > 0 else None
        if job is None:
            raise BadUsage(f"There is no job {number} in {self.folder}. List them with: limner jobs")
        return job

    def stop(self, number: int, *, now: bool = False) -> Job:
        """Ask a job to end. One that waits never starts; a training saves first; one that has ended stays so.

        Args:
            number: Of the job.
            now: Kill the command, without asking: what it did not save is lost.

        Raises:
            BadUsage: There is none with this number, or the folder cannot be written.
        """
        job = self.get(number)
        files = JobFolder(job.folder)
        with self._writable():
            if not job.has_ended and not files.cancels():
                is_first = not files.shall_stop()
                files.stop_path.touch()
                child = find(name_from(files.state().get("child")))
                if child and now:
                    kill(child)
                elif child and is_first and not files.has_keeper():  # else that asks it
                    ask_to_end(child, job.run, job.started)
        return self.get(number)

    def again(self, number: int, *, secrets: Mapping[str, str] | None = None) -> Job:
        """Add a job that has ended once more, at the end of the queue; a training goes on from where it was.

        Args:
            number: Of the job.
            secrets: Environment variables of the new job; those of the old one were written nowhere.

        Raises:
            BadUsage: There is none with this number, it has not ended or is damaged, or the folder cannot be
                written.
        """
        job = self.get(number)
        folder = (JobFolder(job.folder).job() or {}).get("cwd")
        if not job.has_ended:
            raise BadUsage(f"Job {number} is {job.state}. Add it again when it has ended.")
        if not job.arguments or not isinstance(folder, str):
            raise BadUsage(f"{job.line}, and add its command anew.")
        return self.add(
            job.arguments,
            title=job.title,
            run=job.run,
            device=job.device,
            secrets=secrets,
            cwd=Path(folder),
        )

    def go_on(self, numbers: Sequence[int] | None = None, *, exclusions: Sequence[str] = ()) -> list[int]:
        """Keep anew what waits and has nobody who keeps it, as after a restart of the computer.

        Args:
            numbers: The jobs to look at; all when left out.
            exclusions: Environment variables of this process that are none of theirs.

        Returns:
            The jobs that have a keeper again. Of a folder that cannot be written, as another user's, none.

        Raises:
            BadUsage: A keeper cannot be started.
        """
        paths = [self._path(number) for number in (self._numbers() if numbers is None else numbers)]
        paths = [path for path in paths if JobFolder(path).is_orphan()]
        if not paths or not os.access(self.folder, os.W_OK):
            return []
        with self._writable(), FileLock(self.folder / "keepers.lock", timeout=LOCK_SECONDS):
            paths = [path for path in paths if JobFolder(path).is_orphan()]  # nobody else was faster
            for path in paths:
                _start_keeper(path, {}, exclusions=exclusions)
        return [int(path.name) for path in paths]

    def remove(self, number: int) -> None:
        """Delete the folder of a job that has ended. Its run folder stays, and its number is not given again.

        Raises:
            BadUsage: There is none with this number, it has not ended, or the folder cannot be written.
        """
        job = self.get(number)
        if not job.has_ended:
            raise BadUsage(f"Job {number} is {job.state}. Stop it first: limner jobs stop {number}")
        with self._writable():
            if number > self._last():
                write_text(self._last_path, f"{number}\n")
            remove_folder(job.folder)

    @property
    def at_once(self) -> int:
        """How many jobs may compute on the GPU at once; 1 unless it was set.

        Raises:
            BadUsage: The file holds no such number.
        """
        try:
            text = self._limit_path.read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return 1
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            raise BadUsage(
                f"{self._limit_path} holds {text[:20]!r}, which is no number of jobs. "
                "Set it anew: limner jobs --at-once 1"
            )
        return int(text)

    def set_at_once(self, number: int) -> None:
        """Say how many jobs may compute on the GPU at once, also to those that wait.

        Raises:
            BadUsage: It is not from 1 to 999999, or the folder cannot be written.
        """
        if not 1 <= number < 1_000_000:
            raise BadUsage(f"{number} jobs at once are not possible. Say 1 or more.")
        with self._writable():
            write_text(self._limit_path, f"{number}\n")

    def ahead_of(self, number: int, candidates: Sequence[int] | None = None) -> list[int]:
        """The jobs on the GPU that were added before one and have not ended, by number.

        Args:
            number: Of the job.
            candidates: What the same question was answered before, so that fewer are read.
        """
        numbers = self._numbers() if candidates is None else candidates
        jobs = (read_job(self._path(other)) for other in numbers if other < number)
        return [job.number for job in jobs if job is not None and job.device == "gpu" and not job.has_ended]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}"

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if NUMBER.fullmatch(name))

    def _last(self) -> int:
        """The highest number that was removed."""
        try:
            text = self._last_path.read_text(encoding="ascii", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return 0
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadUsage(
                f"{self.folder} cannot be used for jobs: {error.strerror}. Choose another with --folder."
            ) from error


def _require_sense(arguments: Sequence[str], device: str, secrets: Mapping[str, str]) -> None:
    if not arguments:
        raise BadUsage("A job needs a command. Example: limner jobs add -- train photos/")
    if "--detach" in arguments:
        raise BadUsage("A job is in the background already. Leave --detach out.")
    if device not in DEVICES:
        raise BadUsage(f"A job computes on gpu or cpu, not on {device!r}. Say one of the two.")
    if any("\0" in text for text in [*arguments, *secrets, *secrets.values()]):
        raise BadUsage("An argument or secret of a job holds a zero byte. Remove it.")
    if any(not name or "=" in name for name in secrets):
        raise BadUsage(
            "A secret's name is empty or holds '='. Name an environment variable, such as HF_TOKEN."
        )


def _start_keeper(path: Path, secrets: Mapping[str, str], exclusions: Sequence[str] = ()) -> None:
    """Start the process that keeps a job, in a session of its own, which no terminal and no server ends."""
    files = JobFolder(path)
    variables = {name: value for name, value in os.environ.items() if name not in exclusions}
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    with files.log_path.open("ab") as log:
        process = subprocess.Popen(
            # -P: a file of the folder that it runs in, such as json.py, is not taken for a module
            [sys.executable, "-P", "-m", "limner.jobs.keeper", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**variables, **secrets},
            **options,
        )
    try:
        write_record(files.keeper_path, record_of(name_of(process.pid)) or {})
    except psutil.Error:  # it has ended already, and said why
        return
    finally:  # takes note of its end, however long this process lives
        threading.Thread(target=process.wait, name=f"limner-job-{path.name}", daemon=True).start()
