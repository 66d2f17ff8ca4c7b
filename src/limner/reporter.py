"""How a verb says what it is doing, and hears that it shall stop. Never on stdout."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Protocol, Self

from limner.errors import Stopped
from limner.events import Event, Message, OnEvent, ProgressMade

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, commands the terminal, turns the direction of text, or is half a letter."""


class Bar:
    """Counted work under way."""

    def __init__(self, reporter: "Reporter", label: str, total: int, start: int = 0) -> None:
        """Begun now. See :meth:`Reporter.progress`."""
        self._reporter, self._label, self._total, self._first = reporter, label, total, start
        self._position, self._note, self._start = start, "", time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Say that ``n`` more are done; ``note`` is the figure to show beside, such as "loss 0.31".

        Raises:
            Stopped: The caller wants the work to end.
        """
        self._position += n
        self._note = note or self._note
        self.show()
        self._reporter.check()

    def show(self, *, final: bool = False) -> None:
        """Say how far the work has come."""
        event = ProgressMade(
            label=self._label,
            done=self._position,
            total=self._total,
            note=self._note,
            start=self._first,
            seconds=time.monotonic() - self._start,
            ended=final,
        )
        self._reporter.event(event)


class Reporter:
    """Where a verb tells what happens, and whether it shall stop.

    Args:
        on_event: Called with each event, in the thread that works; None: nobody listens.
        stop: Asked between two pieces of counted work; true: what is finished is kept, and the verb ends.
    """

    def __init__(self, on_event: OnEvent | None = None, stop: Callable[[], bool] | None = None) -> None:
        """See the class."""
        self.on_event, self.stop = on_event, stop

    def until(self, stop: Callable[[], bool]) -> Self:
        """The same reporter, with another way to ask whether to stop."""
        other = copy(self)
        other.stop = stop
        return other

    def also(self, on_event: OnEvent) -> Self:
        """The same reporter, which tells somebody else as well."""
        other, before = copy(self), self.on_event

        def both(event: Event) -> None:
            on_event(event)
            if before:
                before(event)

        other.on_event = both
        return other

    def event(self, event: Event) -> None:
        """Tell that something happened."""
        if self.on_event:
            self.on_event(event)

    def line(self, text: str) -> None:
        """Tell one fact, such as what was reused."""
        self.event(Message(text))

    @contextmanager
    def progress(self, label: str, total: int, start: int = 0) -> Iterator[Bar]:
        """Count ``total`` pieces of work, named ``label``, inside a ``with``; also if it breaks off.

        Args:
            label: For people.
            total: All that is to be done.
            start: How much of it was done before.
        """
        bar = Bar(self, label, total, start)
        if total <= start:
            yield bar
            return
        bar.show()
        try:
            yield bar
        finally:
            bar.show(final=True)

    def check(self) -> None:
        """Go on, unless the caller wants the work to end.

        Raises:
            Stopped: It does.
        """
        if self.stop and self.stop():
            raise Stopped("Stopped. What was finished is kept; go on with the same command.")


class Lines(Protocol):
    """Where lines of text go: a stream, or a log."""

    def write(self, text: str, /) -> object:
        """Take a line."""
        ...

    def flush(self) -> object:
        """See that it is written."""
        ...


class PlainText:
    """Events as plain lines for logs and pipes: facts at once, progress at most every few seconds.

    Args:
        stream: Where to write; stderr when left out.
        every: Seconds between two lines of progress.
    """

    def __init__(self, stream: Lines | None = None, interval: float = 5.0) -> None:
        """See the class."""
        self._stream, self._interval = stream, interval
        self._line_times: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Write what people want to read of an event."""
        match event:
            case Message():
                self._write(event.text)
            case ProgressMade():
                self._progress(event)
            case _:  # figures of the others are in the lines beside them
                pass

    def _progress(self, event: ProgressMade) -> None:
        if event.ended:
            self._line_times.pop(event.label, None)
            self._count(event, duration(event.seconds))
            return
        before = self._line_times.setdefault(event.label, event.seconds)
        seconds_left = event.seconds_left
        if seconds_left and event.seconds - before >= self._interval:
            self._line_times[event.label] = event.seconds
            self._count(event, f"about {duration(seconds_left)} left")

    def _count(self, event: ProgressMade, timing: str) -> None:
        parts = [f"{event.label} {event.done}/{event.total}", event.note, timing]
        self._write(", ".join(part for part in parts if part))

    def _write(self, text: str) -> None:
        # Looked up late, so that a stream that a test or a host puts in place of stderr is used.
        stream = self._stream or sys.stderr
        stream.write(printable(text) + "\n")
        stream.flush()


def printable(text: str) -> str:
    r"""A line that a terminal shows and never obeys: ``printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"``.

    Names of files, captions, metadata and answers of servers may hold anything; whatever is written to a
    terminal goes through here. Control characters (C0, DEL, C1), marks that turn the direction of text, and
    the halves of letters by which Python names bytes that are no UTF-8 are escaped, as in a string of Python.
    """
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``counted(1, "image") == "1 image"``, ``counted(3, "image") == "3 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds for people: ``duration(75) == "1 min 15 s"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
