"""Work beside the device's: what decodes, hashes and writes in threads while the main one computes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

THREADS = min(4, os.cpu_count() or 1)
ROOM = 2 * THREADS
"""Pieces made but not yet asked for, or handed over but not yet done: what this holds in memory."""


class Beside:
    """A few threads for a ``with`` statement; what fails in one of them is raised in the caller's.

    Args:
        done: Called in the caller's thread with the result of each piece that was handed to :meth:`behind`.
    """

    def __init__(self, done: Callable[[Any], None]) -> None:
        self._done = done
        self._pool = ThreadPoolExecutor(THREADS)
        self._handed: deque[Future[Any]] = deque()

    def __enter__(self) -> "Beside":
        return self

    def ahead(self, make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """``make`` of each item, in order; the next few are under way while the caller works on one."""
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(self._pool.submit(make, item))
            if len(waiting) > ROOM:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def behind(self, work: Callable[..., Any], *given: Any) -> None:
        """Have ``work(*given)`` done without waiting for it, unless too much has been handed over already."""
        self._handed.append(self._pool.submit(work, *given))
        while len(self._handed) > ROOM or (self._handed and self._handed[0].done()):
            self._done(self._handed.popleft().result())

    def settle(self) -> None:
        """Wait until everything that was handed over is done."""
        while self._handed:
            self._done(self._handed.popleft().result())

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Settle; after an error, drop what has not begun."""
        try:
            if kind is None:
                self.settle()
        finally:
            self._pool.shutdown(cancel_futures=True)
