"""Late imports, and those of large libraries: most of what stands between a command and its first step."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def imported(path: str) -> Any:
    """What a table names ("limner.training.slider:SliderLoss"): its module is imported when it is asked for.

    For what a recipe chooses among: a run loads the code of its own method, and a reader opens no other.
    """
    module, name = path.split(":")
    return getattr(import_module(module), name)


MANY = 10_000
"""Objects from which on it costs to look through them for garbage, again and again."""


def keep(count: int) -> None:
    """Look for no garbage again among all objects that there are: so many of them live as long as a run."""
    if count >= MANY:
        gc.freeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects without looking for garbage among them, where there is none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def swiftly() -> Iterator[None]:
    """Import torch and the like in two thirds of the time: without looking for garbage, where there is none.

    What they leave lives as long as the process, so it is never looked through again.
    """
    with uncollected():
        try:
            yield
        finally:
            gc.freeze()


def hush() -> None:
    """Keep the libraries' progress bars and advice off the terminal: errors reach the user as exceptions."""
    for name in ("diffusers", "transformers"):
        with swiftly():
            library = import_module(name)
        library.utils.logging.set_verbosity(logging.CRITICAL)  # each error is raised as well
        library.utils.logging.disable_progress_bar()
