"""Images from a worker process that keeps the base loaded. Loads no torch.

::

    with Painter() as painter:
        for answer in painter.ask({"run": "runs/cat", "prompt": "sks cat", "out": "pictures"}):
            print(answer)  # progress .., image .., done

Answers are dicts with ``kind``: "line" (``text``, for people), "progress" (``done`` of ``total`` steps of the
sampler), "image" (``path``, ``seed``, ``parameters``), and at last "done" (``seconds``), "released", or
"error" (``error``, the kind of it, and ``message``, one line).
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LAST = ("done", "released", "error")
"""Kinds of the answer that ends a request."""
START_SECONDS = 300.0
"""Until a process that imports torch must have said that it is ready, on the slowest disk."""
STDERR_LINES = 20


class Painter:
    """The client of a worker process, which is started with the first request, and again after a crash.

    Requests of several threads are answered one after the other.

    Args:
        timeout: Seconds without any answer after which the worker counts as hung, and is killed.
        environment: Variables of the worker over those of this process.
    """

    def __init__(self, timeout: float = 600.0, environment: Mapping[str, str] | None = None) -> None:
        """See the class."""
        self.timeout = timeout
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=STDERR_LINES)
        self._readers: list[threading.Thread] = []
        self._numbers = count(1)
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The worker's process; None where none lives."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request and iterate over its answers, which end with "done", "released" or "error".

        A worker that dies or hangs answers with "error", too; the next request starts another. Whoever leaves
        the loop early lets the worker finish this request before the next.

        Args:
            request: See ``limner.generation.painter_worker.request_from``; an ``id`` is put in.
        """
        with self._lock:
            name = next(self._numbers)
            failure = self._start() or self._send({**request, "id": name})
            while failure is None:
                answer = self._next(self.timeout)
                if answer is None:
                    failure = self._broken()
                elif answer.get("id") in (name, None) and answer["kind"] != "ready":
                    yield answer
                    if answer["kind"] in LAST:
                        return
            yield {"id": name, "kind": "error", "error": "WorkerLost", "message": failure}

    def release(self) -> bool:
        """Have the worker give its memory back, as before a training; whether it had any."""
        if self.pid is None:
            return False
        return any(answer.get("was_loaded", False) for answer in self.ask({"kind": "release"}))

    def close(self) -> None:
        """End the worker; it is killed where it does not end by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):  # it has ended
                process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in self._readers:  # the streams are theirs to close
            reader.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> str | None:
        """Have a worker; what went wrong."""
        if self.pid is not None:
            return None
        self.close()
        self._answers, self._errors = queue.Queue(), deque(maxlen=STDERR_LINES)
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "limner.generation.painter_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            start_new_session=True,  # Ctrl-C in the server's terminal is not the worker's
        )
        self._readers = [
            threading.Thread(target=_read_answers, args=(process, self._answers), daemon=True),
            threading.Thread(target=_read_errors, args=(process, self._errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        answer = self._next(START_SECONDS)
        return self._broken() if answer is None else None

    def _send(self, request: Mapping[str, Any]) -> str | None:
        process = self._process
        if process is None or process.stdin is None:
            return self._broken()
        try:
            process.stdin.write(json.dumps(request, default=_path_text) + "\n")
            process.stdin.flush()
        except OSError:
            return self._broken()
        return None

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None where the worker has ended or hangs."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def _broken(self) -> str:
        """End what is left of the worker; say in a line what happened."""
        process = self._process
        if process is not None and process.poll() is None:
            time.sleep(0.1)  # its streams end a moment before it does
        status = process.poll() if process is not None else None
        if process is not None:
            process.kill()
            self.close()
        if status is None:
            return (
                f"The worker gave no answer for {self.timeout:g} s and was ended. Ask again to start another."
            )
        last = next((line for line in reversed(self._errors) if line.strip()), "")
        reason = f": {last.strip()[:200]}" if last else ""
        return f"The worker ended with status {status}{reason}. Ask again to start another."


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a request holds {type(value).__name__}")


def _read_answers(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any] | None]) -> None:
    """Pass answers on, and None at the end."""
    if process.stdout is not None:
        with process.stdout as stream:
            for line in stream:
                answers.put(json.loads(line))
    answers.put(None)


def _read_errors(process: subprocess.Popen[str], lines: deque[str]) -> None:
    if process.stderr is not None:
        with process.stderr as stream:
            lines.extend(stream)
