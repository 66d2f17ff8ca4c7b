"""A job as it is now, read from its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.jobs.job_folder import JobFolder
from limner.jobs.processes import run_status
from limner.process_names import find, name_from
from limner.reporter import printable

END_STATES = ("done", "failed", "stopped", "died")
"""States that nothing follows."""
DEVICES = ("gpu", "cpu")
"""What a job computes on: those on the GPU wait for each other."""
LINE_LENGTH = 400
"""Characters of the last line, at most."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command of Limner in the background, and how far it is."""

    number: int
    """Counts from 1, in the order of the queue."""
    arguments: tuple[str, ...]
    """What follows ``limner`` on the command line; empty where its file cannot be read."""
    title: str
    """For people."""
    run: Path | None
    """The run folder it works in, where it has one."""
    device: str
    """gpu or cpu."""
    state: str
    """queued, running, stopping; done, failed, stopped; or died: it is gone and left no word."""
    exit_code: int | None
    """Of the command: 0; 1: the task failed; 2: wrong usage; negative: the signal that ended it."""
    line: str
    """The last line that it said; of one that failed, its error. Control characters are escaped."""
    secrets: tuple[str, ...]
    """Names of the environment variables that it was given, whose values are in no file."""
    added: float
    """In seconds since 1970, as the two below."""
    started: float | None
    ended: float | None
    folder: Path
    """Where its files are."""

    @property
    def stdout_path(self) -> Path:
        """What it wrote to stdout: with ``--json`` its result."""
        return JobFolder(self.folder).stdout_path

    @property
    def stderr_path(self) -> Path:
        """What it said."""
        return JobFolder(self.folder).stderr_path

    @property
    def has_ended(self) -> bool:
        """Whether nothing more follows."""
        return self.state in END_STATES

    def result(self) -> dict[str, Any] | None:
        """Its result, where the verb ran with ``--json`` or ``--events``; None while there is none."""
        try:
            text = self.stdout_path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None
        value = _object(text) or _object(text.rpartition("\n")[2])
        return None if value is None or "event" in value else value

    def events(self) -> list[dict[str, Any]]:
        """What happened so far, where the verb ran with ``--events``. See ``limner.events``."""
        try:
            text = self.stdout_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [value for value in map(_object, text.splitlines()) if value and "event" in value]


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_job(path: Path) -> Job | None:
    """A job by its folder; None where the folder holds none.

    One whose ``job.json`` is damaged is there all the same, so that it can be seen and removed.
    """
    files = JobFolder(path)
    if not files.job_path.exists():
        return None
    values = files.job() or {}
    run = Path(values["run"]) if isinstance(values.get("run"), str) else None
    record, state = _state(files, run)
    line = record.get("line") if isinstance(record.get("line"), str) else files.last_line()
    if not isinstance(values.get("arguments"), list):
        line = f"{files.job_path} is damaged. Remove the job: limner jobs remove {int(path.name)}"
    if state == "died" and files.is_queued() and files.secrets():
        names = ", ".join(files.secrets())
        line = f"It waited when its process was ended, and {names}, which it was given, is in no file."
    arguments = values.get("arguments")
    exit_code = record.get("exit_code")
    return Job(
        number=int(path.name),
        arguments=tuple(map(str, arguments)) if isinstance(arguments, list) else (),
        title=str(values.get("title", "")),
        run=run,
        device="cpu" if values.get("device") == "cpu" else "gpu",
        state=state,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        line=printable(str(line))[:LINE_LENGTH],
        secrets=files.secrets(),
        added=_time(values.get("added")) or 0.0,
        started=_time(record.get("started")),
        ended=_time(record.get("ended")),
        folder=path,
    )


def _state(files: JobFolder, run: Path | None) -> tuple[dict[str, Any], str]:
    """What is on record, and the state: what processes leave behind says nothing of whether they live."""
    record = files.state()
    if record.get("state") in END_STATES:
        return record, record["state"]
    if not files.has_started():
        if files.has_keeper() and files.is_queued():
            return record, "queued"
        if files.shall_stop():
            return record, "stopped"
        if files.is_orphan():
            return record, "queued"
    if files.has_keeper() or find(name_from(record.get("child"))):
        return record, "stopping" if files.shall_stop() else "running"
    record = files.state()  # it may have ended since the first look
    if record.get("state") in END_STATES:
        return record, record["state"]
    status = run_status(run, _time(record.get("started")))
    if status is not None and status.state in END_STATES:  # its keeper was killed, and it went on
        return {**record, "line": status.line, "ended": status.heartbeat}, status.state
    return record, "stopped" if files.shall_stop() else "died"


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
