"""What the C library keeps of memory that was freed."""

import ctypes
import sys
from functools import cache
from typing import Any

OFTEN = 2**28
"""Bytes that are read between two calls."""
MIN_BYTES = 2**22
"""Bytes that are worth a call."""


def give_back() -> bool:
    """Have freed memory go back to the system; whether there was any, where this can be had at all.

    glibc keeps freed blocks below 32 MiB, in the hope to use them again: after a model has been cast or coded
    layer by layer, up to as much as it was before. Measured: benchmarks/memory/plan_host.py.
    """
    trim = _trim()
    return bool(trim and trim(0))


@cache
def _trim() -> Any:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except AttributeError:  # another C library than glibc
        return None
