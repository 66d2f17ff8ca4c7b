"""What the person sees: progress on stderr, the result on stdout as lines or as one JSON object."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from limner.run.say import Plain, Quiet, Say, Steps


class Terminal:
    """Progress bars on a terminal. Bars may be nested, as when samples are painted during training."""

    def __init__(self, console: Console) -> None:
        """Draw on ``console``, which is stderr."""
        self._console = console
        self._bars: Progress | None = None
        self._depth = 0

    def line(self, text: str) -> None:
        """Write one line, above the bars if there are any."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def steps(self, label: str, total: int) -> Iterator[Steps]:
        """Show a bar while inside. An outermost bar stays when it ends, with its last state."""
        if not total:
            with Quiet().steps(label, total) as steps:
                yield steps
            return
        bars = self._bars = self._bars or self._new()
        if self._depth == 0:
            bars.start()
        self._depth += 1
        task = bars.add_task(label, total=total, note="")
        try:
            yield _Bar(bars, task)
        finally:
            self._depth -= 1
            bars.stop_task(task)
            if self._depth:
                bars.remove_task(task)
            else:
                bars.stop()
                self._bars = None

    def _new(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: int = 1, note: str = "") -> None:
        if note:
            self._bars.update(self._task, advance=n, note=note)
        else:
            self._bars.update(self._task, advance=n)


def leads() -> bool:
    """Whether this process speaks: of several that train together, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def progress() -> Say:
    """Bars where stderr is a terminal, plain lines elsewhere, nothing in all processes but the first."""
    if not leads():
        return Quiet()
    console = Console(stderr=True)
    return Terminal(console) if console.is_terminal else Plain()


def result(value: Any, lines: list[str], *, as_json: bool) -> None:
    """Write the result to stdout: one JSON object, or the lines.

    Args:
        value: A mapping or a dataclass of plain values, paths and such; infinity and NaN become null.
        lines: The same for people.
        as_json: Which of the two.
    """
    if not leads():
        return
    text = json.dumps(plain(value), allow_nan=False) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """A value as JSON knows it: ``plain(Path("a")) == "a"``, ``plain(math.nan) is None``."""
    match value:
        case Path():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return plain(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value


def failure(kind: str, message: str, *, as_json: bool) -> None:
    """Tell an error: one line on stderr, and on stdout its JSON object when that was asked for."""
    line = " ".join(message.splitlines())
    sys.stderr.write(f"limner: error: {line}\n")
    if as_json:
        result({"error": {"kind": kind, "message": line}}, [], as_json=True)
