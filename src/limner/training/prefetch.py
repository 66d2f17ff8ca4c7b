"""Work beside the device's: what decodes, hashes and writes in threads while the main one computes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
ROOM = 2 * THREADS
"""Pieces made but not yet asked for, or handed over but not yet done: what this holds in memory."""


class BackgroundPool:
    """A few threads for a ``with`` statement; what fails in one of them is raised in the caller's.

    Args:
        on_result: Called in the caller's thread with the result of each piece handed to :meth:`behind`.
    """

    def __init__(self, on_result: Callable[[Any], None]) -> None:
        self._on_result = on_result
        self._pool = ThreadPoolExecutor(THREADS)
        self._pending: deque[Future[Any]] = deque()

    def __enter__(self) -> "BackgroundPool":
        return self

    def ahead(self, make: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``make`` of each item, in order; the next few are under way while the caller works on one."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(make, item))
            if len(waiting) > ROOM:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def behind(self, work: Callable[..., Any], *args: Any) -> None:
        """Have ``work(*args)`` done without waiting for it, unless too much has been handed over already."""
        self._pending.append(self._pool.submit(work, *args))
        while len(self._pending) > ROOM or (self._pending and self._pending[0].done()):
            self._on_result(self._pending.popleft().result())

    def settle(self) -> None:
        """Wait until everything that was handed over is done."""
        while self._pending:
            self._on_result(self._pending.popleft().result())

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Settle; after an error, drop what has not begun."""
        try:
            if kind is None:
                self.settle()
        finally:
            self._pool.shutdown(cancel_futures=True)
