"""Verbs of the command line, asked from a page: in a process of their own, answered in JSON.

Short ones are waited for; long ones become jobs. Nothing here computes what a verb computes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limner.errors import BadUsage, LimnerError
from limner.reporter import printable

WAIT = 600.0
"""Seconds that a page waits for a verb at most."""
INTERVAL = 0.2
"""Seconds between two ticks."""


class VerbFailed(LimnerError):
    """A verb that ended with an error, whose line this is."""


def ask(
    arguments: Sequence[str | Path],
    *,
    folder: Path,
    secrets: Mapping[str, str] | None = None,
    seconds: float = WAIT,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Run a verb to its end, and read what it says.

    Args:
        arguments: What follows ``limner``; ``--json`` is added.
        folder: Its working directory, which is the workspace.
        secrets: Environment variables of this process alone, such as keys.
        seconds: How long to wait.
        tick: Called five times a second while it works. Whatever it raises ends the verb: Streamlit does so
            from a call that draws, when the page is to be drawn anew.

    Raises:
        VerbFailed: It failed; the message is the verb's own. A plan that does not fit is an answer.
        BadUsage: It took too long.
    """
    # -P: a json.py among a person's files is not imported
    command = [sys.executable, "-P", "-m", "limner", *map(str, arguments), "--json"]
    stdout, stderr = _output(command, folder, secrets or {}, seconds, tick)
    answer = _answer(stdout)
    if answer is None:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise VerbFailed(printable(lines[-1]) if lines else f"limner {arguments[0]} ended without a word.")
    if "error" in answer:
        raise VerbFailed(str(answer["error"]["message"]))
    return answer


def _output(
    command: list[str],
    folder: Path,
    secrets: Mapping[str, str],
    seconds: float,
    tick: Callable[[], object],
) -> tuple[bytes, bytes]:
    """What a process writes to stdout and stderr; it is ended with this call, however that ends."""
    environment = {**os.environ, **secrets}
    pipe, devnull = subprocess.PIPE, subprocess.DEVNULL
    end = time.monotonic() + seconds
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=devnull, stdout=pipe, stderr=pipe
    ) as process:
        try:
            while time.monotonic() < end:
                try:
                    return process.communicate(timeout=INTERVAL)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            process.kill()
    verb = command[4]
    raise BadUsage(f"limner {verb} took longer than {seconds:.0f} s, and was ended. Run it in a terminal.")


def _answer(stdout: bytes) -> dict[str, Any] | None:
    """The JSON object that a verb printed last; None where it printed none."""
    for line in (stdout, *reversed(stdout.splitlines())):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None
