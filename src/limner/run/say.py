"""How long work tells what it is doing: a line now and then, and how far it has come. Never on stdout."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO


class Steps(Protocol):
    """Counted work under way."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Say that ``n`` more are done; ``note`` is the figure to show beside, such as "loss 0.31"."""
        ...


class Say(Protocol):
    """Where a verb tells its progress. It is never asked anything, and must not fail the work."""

    def line(self, text: str) -> None:
        """Tell one fact, such as what was reused."""
        ...

    def steps(self, label: str, total: int) -> AbstractContextManager[Steps]:
        """Count ``total`` pieces of work, named ``label``, inside a ``with``."""
        ...


class _Silent:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class Quiet:
    """Says nothing."""

    def line(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def steps(self, label: str, total: int) -> Iterator[Steps]:
        """Count nothing."""
        yield _Silent()


class Plain:
    """Plain lines for logs and pipes: facts at once, progress at most every few seconds, and when it ends.

    Args:
        stream: Where to write; stderr when left out.
        every: Seconds between two lines of progress.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        """See the class."""
        self._stream = stream
        self._every = every

    def line(self, text: str) -> None:
        """Write one line."""
        # Looked up late, so that a stream that a test or a host puts in place of stderr is used.
        stream = self._stream or sys.stderr
        stream.write(text + "\n")
        stream.flush()

    @contextmanager
    def steps(self, label: str, total: int) -> Iterator[Steps]:
        """Count, and say how far and how long. The last line is written even when the work is broken off."""
        counted = _Counted(self, label, total, self._every)
        try:
            yield counted
        finally:
            counted.finish()


class _Counted:
    def __init__(self, say: Plain, label: str, total: int, every: float) -> None:
        self._say = say
        self._label = label
        self._total = total
        self._every = every
        self._done = 0
        self._note = ""
        self._start = self._told = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        now = time.monotonic()
        if now - self._told >= self._every and self._done < self._total:
            self._told = now
            left = (now - self._start) * (self._total - self._done) / max(self._done, 1)
            self._tell(f"about {duration(left)} left")

    def finish(self) -> None:
        if self._total:
            self._tell(duration(time.monotonic() - self._start))

    def _tell(self, when: str) -> None:
        parts = [f"{self._label} {self._done}/{self._total}", self._note, when]
        self._say.line(", ".join(part for part in parts if part))


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
