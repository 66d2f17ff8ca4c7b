"""Verbs of the command line, asked from a page: in a process of their own, answered in JSON.

Short ones are waited for; long ones become jobs. Nothing here computes what a verb computes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limner.errors import BadUsage, LimnerError
from limner.reporter import printable

WAIT = 600.0
"""Seconds that a page waits for a verb at most."""


class VerbFailed(LimnerError):
    """A verb that ended with an error, whose line this is."""


def ask(
    arguments: Sequence[str | Path],
    *,
    folder: Path,
    secrets: Mapping[str, str] | None = None,
    seconds: float = WAIT,
) -> dict[str, Any]:
    """Run a verb to its end, and read what it says.

    Args:
        arguments: What follows ``limner``; ``--json`` is added.
        folder: Its working directory, which is the workspace.
        secrets: Environment variables of this process alone, such as keys.
        seconds: How long to wait.

    Raises:
        VerbFailed: It failed; the message is the verb's own. A plan that does not fit is an answer.
        BadUsage: It took too long.
    """
    command = [sys.executable, "-m", "limner", *map(str, arguments), "--json"]
    try:
        outcome = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(secrets or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadUsage(
            f"limner {arguments[0]} took longer than {seconds:.0f} s, and was ended. Run it in a terminal."
        ) from None
    answer = _answer(outcome.stdout)
    if answer is None:
        lines = outcome.stderr.decode(errors="replace").strip().splitlines()
        raise VerbFailed(printable(lines[-1]) if lines else f"limner {arguments[0]} ended without a word.")
    if "error" in answer:
        raise VerbFailed(str(answer["error"]["message"]))
    return answer


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
