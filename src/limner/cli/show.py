"""What the person sees: progress on stderr, the result on stdout as lines or as one JSON object."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from limner.events import Event, Message, OnEvent, ProgressMade, plain, to_json
from limner.reporter import PlainText, printable

SILENT = "LIMNER_SILENT"
"""Environment variable of a process in the background: its events are in train.log, and nobody watches."""
PARENT = "LIMNER_PARENT"
"""Environment variable with the process that started this one by ``--processes``, and when that began."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable of launchers: where a process writes why it failed, in the form of torch's own."""


class Terminal:
    """Events on a terminal, with progress bars. Bars may be nested, as when a training samples.

    Args:
        console: Where to draw, which is stderr.
    """

    def __init__(self, console: Console) -> None:
        """See the class."""
        self._console = console
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show what people want to see of an event."""
        match event:
            case Message():
                self._console.print(printable(event.text), markup=False, highlight=False)
            case ProgressMade() if event.ended:
                self._end(event)
            case ProgressMade():
                self._move(event)
            case _:  # figures of the others are in the lines beside them
                pass

    def _move(self, event: ProgressMade) -> None:
        bars = self._bars = self._bars or self._new()
        if event.label not in self._tasks:
            if not self._tasks:
                bars.start()
            self._tasks[event.label] = bars.add_task(
                printable(event.label), total=event.total, completed=event.done, note=""
            )
        bars.update(self._tasks[event.label], completed=event.done, note=printable(event.note))

    def _end(self, event: ProgressMade) -> None:
        """An outermost bar stays when it ends, with its last state."""
        task = self._tasks.pop(event.label, None)
        if self._bars is None or task is None:
            return
        self._bars.stop_task(task)
        if self._tasks:
            self._bars.remove_task(task)
        else:
            self._bars.stop()
            self._bars = None

    def _new(self) -> Bars:
        return Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )


class JsonLines:
    """Events as lines of JSON, for other programs. Of counted work one every 0.25 s at most, and its end.

    Args:
        stream: Where to write.
    """

    INTERVAL = 0.25

    def __init__(self, stream: TextIO) -> None:
        """See the class."""
        self._stream = stream
        self._times: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, ProgressMade) and not self._due(event):
            return
        self._stream.write(json.dumps(to_json(event), allow_nan=False) + "\n")
        self._stream.flush()

    def _due(self, event: ProgressMade) -> bool:
        if event.ended:
            self._times.pop(event.label, None)
            return True
        before = self._times.get(event.label)
        if before is not None and event.seconds - before < self.INTERVAL:
            return False
        self._times[event.label] = event.seconds
        return True


def leads() -> bool:
    """Whether this process speaks: of several that train together, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def shown() -> OnEvent | None:
    """Bars where stderr is a terminal, plain lines elsewhere, nothing in all processes but the first."""
    if not leads() or os.environ.get(SILENT):
        return None
    console = Console(stderr=True)
    return Terminal(console) if console.is_terminal else PlainText()


def while_open(listen: OnEvent) -> OnEvent:
    """The same listener, silent from the moment when its terminal is gone: no run ends for want of one."""
    is_open = True

    def hear(event: Event) -> None:
        nonlocal is_open
        if is_open:
            try:
                listen(event)
            except OSError:
                is_open = False

    return hear


def listener(*, events: bool) -> OnEvent | None:
    """Who hears of events: the person, and with ``events`` whoever reads stdout, in the first process."""
    watcher = shown()
    person = while_open(watcher) if watcher else None
    if person is None or not events:
        return person
    program = JsonLines(sys.stdout)  # as it is now: what libraries print goes elsewhere

    def both(event: Event) -> None:
        person(event)
        program(event)

    return both


def result(value: Any, lines: list[str], *, as_json: bool) -> None:
    """Write the result to stdout: one JSON object, or the lines.

    Args:
        value: A mapping or a dataclass of plain values, paths and such; infinity and NaN become null.
        lines: The same for people.
        as_json: Which of the two.
    """
    if not leads():
        return
    text = json.dumps(plain(value), allow_nan=False) if as_json else "\n".join(map(printable, lines))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def failure(kind: str, message: str, *, as_json: bool) -> None:
    """Tell an error: one line on stderr, and on stdout its JSON object when that was asked for.

    Of several processes that a launcher started only the first of each machine speaks; the launcher says why
    another one failed. That one is lost ``--processes`` says, which knows which.
    """
    line = printable(" ".join(message.splitlines()))
    speaks = _is_first_here() and not (kind == "ProcessLost" and os.environ.get(PARENT))
    if speaks or not os.environ.get(ERROR_FILE):
        with suppress(OSError):  # its terminal may be gone
            sys.stderr.write(f"limner: error: {line}\n")
    _record_failure(kind, line)
    if as_json:
        result({"error": {"kind": kind, "message": line}}, [], as_json=True)


def _is_first_here() -> bool:
    """Whether this process is the first that a launcher started on this machine."""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def _record_failure(kind: str, line: str) -> None:
    """Tell the launcher, which names no reason otherwise."""
    if path := os.environ.get(ERROR_FILE):
        extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(
                json.dumps({"message": {"message": line, "error": kind, "extraInfo": extra}})
            )
