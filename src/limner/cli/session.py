"""What surrounds every verb: its reporter, a clean stdout, and signals that end in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

from limner.errors import Stopped


@contextmanager
def session(*, as_json: bool, events: bool = False) -> Iterator[Any]:
    """Give a verb its ``Reporter``, keep what libraries print off stdout, turn a signal into one line."""
    from limner.cli.show import listener
    from limner.reporter import Reporter
    from limner.training.interrupt import polite

    for library in ("TRANSFORMERS", "DIFFUSERS"):  # before it is loaded: its advice is for programmers
        os.environ.setdefault(f"{library}_VERBOSITY", "critical")
    try:
        hear = listener(events=events)
        with polite(), redirect_stdout(sys.stderr) if as_json or events else nullcontext():
            yield Reporter(hear)
    except KeyboardInterrupt:
        raise Stopped("Stopped. What was written is kept; run the same command again.") from None
