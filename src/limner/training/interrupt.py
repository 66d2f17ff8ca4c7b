"""Ctrl-C and the polite kill: when a run may be left."""

import signal
from collections.abc import Iterator
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
    """SIGINT and SIGTERM: at once while nothing can be lost, between two steps while training.

    What may take long and can be made up for later is broken off even then.

    Asked twice, it never waits.
    """

    def __init__(self) -> None:
        self.asked = False
        self._patient = False
        self._before: dict[int, Any] = {}

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
            if not patient or self.asked:
                raise
            self.asked = True
        finally:
            self._patient = patient

    def _ask(self, number: int, frame: Any) -> None:
        del number, frame
        if self.asked or not self._patient:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            raise Stopped("Stopped. What was finished is kept; go on with the same command.") from None
