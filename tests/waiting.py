"""Waiting for other processes in tests."""

import time
from collections.abc import Callable
from typing import Any

LONGEST = 3600.0
"""Seconds after which something hangs for good: a machine loaded tenfold takes 600 for what takes 60."""


def until(condition: Callable[[], Any], seconds: float = LONGEST) -> Any:
    """Wait for something to become true; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value
