"""Ctrl-C, the polite kill, and a caller who wants to stop: when a run may be left."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from limner.errors import Stopped


@contextmanager
def polite() -> Iterator[None]:
    """Within this, SIGTERM is what Ctrl-C is: a ``KeyboardInterrupt``."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # only the main thread may; elsewhere the caller stops us
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupt:
    """SIGINT, SIGTERM and a caller's wish: at once while nothing can be lost, between two steps in training.

    What may take long and can be made up for later is broken off even then. A second signal never waits.
    Signals reach it within its ``with`` statement, which may be entered again, and in the main thread only.

    Args:
        should_stop: Whether the caller wants the work to end; works in every thread.
    """

    def __init__(self, should_stop: Callable[[], bool] | None = None) -> None:
        """See the class."""
        self._should_stop = should_stop
        self._has_signal = False
        self._patient = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether the work shall end, be it now or between two steps."""
        return self._has_signal or (self._should_stop is not None and self._should_stop())

    def due(self) -> bool:
        """Whether the work shall end now, between two pieces of whatever is being done."""
        return self.asked and not self._patient

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # only the main thread may; elsewhere the caller stops us
                break
        return self

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within this, the first signal only sets ``asked``."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Within this, the first signal ends what is done here, and sets ``asked`` where ``patient``."""
        patient, self._patient = self._patient, False
        try:
            yield
        except KeyboardInterrupt:
            if not patient or self._has_signal:
                raise
            self._has_signal = True
        except Stopped:
            if not patient:  # else the loop sees the caller's wish as well
                raise
        finally:
            self._patient = patient

    def _ask(self, number: int, frame: Any) -> None:
        del number, frame
        if self._has_signal or not self._patient:
            raise KeyboardInterrupt
        self._has_signal = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if kind is KeyboardInterrupt:
            raise Stopped("Stopped. What was finished is kept; go on with the same command.") from None
