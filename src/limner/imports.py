"""Importing large libraries, which is most of what stands between a command and its first step."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def swiftly() -> Iterator[None]:
    """Import torch and the like in two thirds of the time: without looking for garbage, where there is none.

    What they leave lives as long as the process, so it is never looked through again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
