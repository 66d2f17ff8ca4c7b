"""A run as other programs follow and steer it. Loads no torch.

In its folder, ``status.json`` says what it is doing, every 2 s; ``train.log`` holds what it said, with the
time; and ``ask/`` takes requests: an empty file is named after what is asked for. The run looks between two
steps, does it, removes the file and says so; "stop" is heard at any time. What was asked before it began is
forgotten.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO

import psutil

from limner.errors import BadUsage, LimnerError, Stopped, first_line
from limner.events import Done, Event, Message, PlanMade, ProgressMade, Saved, StepDone, Validated
from limner.files import atomic_write, write_text
from limner.process_names import ProcessName, find, name_of
from limner.reporter import PlainText
from limner.run_folder import RunDir

INTERVAL = 2.0
"""Seconds between two heartbeats."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What a run is doing, or how it ended."""

    state: str
    """running, done, stopped or failed; and killed where the process of a running one is gone."""
    phase: str
    """Label of the work under way, such as "Caching" or "Training"; "Preparing" where nothing is counted."""
    done: int = 0
    total: int = 0
    step: int | None = None
    """Optimizer steps finished."""
    steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    seconds_per_step: float | None = None
    """Of the last step."""
    seconds_left: float | None = None
    """Of the work under way, at its pace so far."""
    bytes: int | None = None
    """Most memory that was held so far."""
    bytes_now: int | None = None
    """Memory that is held now, in every phase: of the GPU, or of the process where the processor trains."""
    planned_bytes: int | None = None
    saved_step: int | None = None
    """Step of the newest checkpoint of this call."""
    line: str = ""
    """The last fact that was told; of a run that failed, its error."""
    pid: int = 0
    host: str = ""
    started: float = 0.0
    """When the process began, in seconds since 1970."""
    birth: str = ""
    """With ``pid`` and ``host`` it names the process for good: see ``limner.process_names``."""
    heartbeat: float = 0.0
    """When this was written, in seconds since 1970."""


class StatusFile:
    """Keeps ``status.json`` up to date within its ``with`` statement: every 2 s, whatever the run is doing.

    Args:
        run: The run folder.
        interval: Seconds between two heartbeats.
        memory: Bytes that are held now; asked before each heartbeat, from a thread of its own. None: what is
            resident in this process.
    """

    def __init__(
        self, run: RunDir, interval: float = INTERVAL, memory: Callable[[], int | None] | None = None
    ) -> None:
        """See the class."""
        self._path, self._interval, self._memory = run.status_path, interval, memory or resident
        self._lock, self._end = threading.Lock(), threading.Event()
        self._bars: list[str] = []
        name = name_of()
        self._status = RunStatus(
            state="running",
            phase="Preparing",
            pid=name.pid,
            host=name.host,
            started=name.start,
            birth=name.birth,
        )
        self._thread = threading.Thread(target=self._beat, name="limner-status", daemon=True)

    def __enter__(self) -> "StatusFile":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._end.set()
        self._thread.join()
        if kind is None:
            self._change(state="done", phase="")
        elif issubclass(kind, Stopped | GeneratorExit | KeyboardInterrupt):
            self._change(state="stopped", phase="")
        else:
            text = first_line(error) if error else kind.__name__
            self._change(state="failed", phase="", line=text)
        self._write()

    def hear(self, event: Event) -> None:
        """Take over what an event says. Written with the next heartbeat."""
        match event:
            case Message():
                self._change(line=event.text)
            case ProgressMade():
                self._progress(event)
            case PlanMade():
                self._change(planned_bytes=event.bytes)
            case StepDone():
                names = ("step", "steps", "loss", "bytes")
                values = {name: getattr(event, name) for name in names}
                self._change(seconds_per_step=event.seconds, **values)
            case Validated():
                self._change(validation_loss=event.loss)
            case Saved():
                self._change(saved_step=event.step)
            case Done():
                self._change(step=event.steps, steps=event.steps)
            case _:
                pass

    def _progress(self, event: ProgressMade) -> None:
        if event.label not in self._bars:
            self._bars.append(event.label)
        self._change(phase=event.label, done=event.done, total=event.total, seconds_left=event.seconds_left)
        if event.ended:
            self._bars.remove(event.label)
            phase = self._bars[-1] if self._bars else "Preparing"
            self._change(phase=phase, done=0, total=0, seconds_left=None)

    def _change(self, **values: Any) -> None:
        with self._lock:
            self._status = replace(self._status, **values)

    def _beat(self) -> None:
        while not self._end.wait(self._interval):
            self._write()

    def _write(self) -> None:
        """Write the file. A full disk or a folder that is gone ends no run: readers see the heartbeat age."""
        self._change(heartbeat=time.time(), bytes_now=self._memory())
        text = json.dumps(asdict(self._status))
        try:
            atomic_write(self._path, lambda draft: draft.write_text(text, encoding="utf-8"), sync=False)
        except (OSError, LimnerError):
            return


def resident() -> int:
    """Bytes of this process in the computer's memory."""
    return psutil.Process().memory_info().rss


def read_status(run: Path) -> RunStatus | None:
    """What a run is doing; None where its folder says nothing.

    A file that is no status counts as none: it is written anew every 2 s while a run works.
    """
    try:
        values = json.loads(RunDir(run).status_path.read_bytes())
        names = RunStatus.__dataclass_fields__.keys() & values.keys()  # an older version wrote fewer
        status = RunStatus(**{name: values[name] for name in names})
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return (
        status if status.state != "running" or _alive(status) else replace(status, state="killed", phase="")
    )


def _alive(status: RunStatus) -> bool:
    """Whether the process that wrote it runs; of another machine that cannot be seen, its heartbeat says."""
    name = ProcessName(status.pid, status.host, status.started, status.birth)
    if not name.is_here:
        return time.time() - status.heartbeat < 30 * INTERVAL
    return find(name) is not None


def runs_in(folder: Path) -> dict[Path, RunStatus]:
    """The runs directly below a folder that say what they are doing, by name."""
    if not folder.is_dir():
        return {}
    states = {path: read_status(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {path: status for path, status in states.items() if status is not None}


LOG_INTERVAL = 30.0
"""Seconds between two lines on one piece of work."""


class TrainLog:
    """Writes down what events say, within its ``with`` statement, after what earlier calls left.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunDir) -> None:
        """See the class."""
        self._path = run.log_path
        self._file: TextIO | None = None
        self._text = PlainText(self, LOG_INTERVAL)

    def __enter__(self) -> "TrainLog":
        try:
            self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError:
            self._file = None  # as with a disk that is full, the run is worth more
        self.write(f"Process {os.getpid()} begins.\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        text = "Done." if kind is None else f"{kind.__name__}: {first_line(error) if error else ''}"
        if kind and issubclass(kind, KeyboardInterrupt):  # says nothing of its own
            text = "Stopped, from outside."
        self.write(f"{text.strip()}\n")
        self._close()

    def hear(self, event: Event) -> None:
        """Write what people want to read of an event."""
        self._text(event)

    def write(self, text: str) -> None:
        """Write a line with the time before it. A full disk, or a folder that is gone, ends no run."""
        if self._file is None:
            return
        now = datetime.fromtimestamp(time.time()).isoformat(" ", "seconds")
        try:
            self._file.write(f"{now}  {text}")
            self._file.flush()
        except OSError:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file:
            with suppress(OSError):  # what could not be written is tried once more
                file.close()

    def flush(self) -> None:
        """Nothing: each line is written at once."""


KINDS = ("save", "export", "sample", "stop")
"""A checkpoint; a LoRA of the step; sample images; a checkpoint and the end. In order of being done."""


class Requests:
    """What is asked of a run.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunDir) -> None:
        """See the class."""
        self._run, self._folder = run, run.ask_path

    def __enter__(self) -> Self:
        """Begin to listen: what was asked before is forgotten."""
        self.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def send(self, kind: str) -> None:
        """Ask for something.

        Raises:
            BadUsage: It means nothing, or nothing runs in the folder.
        """
        if kind not in KINDS:
            raise BadUsage(f"{kind!r} cannot be asked of a run. Ask for one of {', '.join(sorted(KINDS))}.")
        status = read_status(self._run.path)
        if status is None or status.state != "running":
            state = "has no run" if status is None else f"holds a run that is {status.state}"
            raise BadUsage(f"{self._run.path} {state}: nobody would answer. List runs with: limner runs")
        write_text(self._folder / kind, "")

    def pending(self) -> list[str]:
        """What is asked for and was not done yet."""
        return [kind for kind in KINDS if (self._folder / kind).exists()]

    def stops(self) -> bool:
        """Whether the run shall end."""
        return (self._folder / "stop").exists()

    def answer(self, kind: str) -> None:
        """It is done."""
        (self._folder / kind).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all of it."""
        for kind in KINDS:
            self.answer(kind)
