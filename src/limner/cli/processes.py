"""``--processes``: the same command in several processes that train together, of which the first one speaks.

They are told of each other as ``torchrun`` does it, by the environment. Unlike with ``torchrun``, what ends a
run is one line, and its exit code is that of the process that failed first.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from limner.cli.show import ERROR_FILE, PARENT, leads
from limner.errors import BadUsage
from limner.files import scratch_folder
from limner.reporter import counted, printable

GRACE = 30.0
"""Seconds that the others have to end by themselves when one has failed, as ``torchrun`` gives them."""
PATIENCE = 1.0
"""Seconds before they are asked to: what fails in all of them each says by itself, the first one aloud."""
INTERVAL = 0.05
ELASTIC = "TORCHELASTIC_RUN_ID"
"""Set by torchrun, and by ``accelerate launch`` for several processes."""
FLAG = "--processes"
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


def require_room(count: int, device: str) -> None:
    """See to it that there is a GPU for each process, where GPUs train.

    Args:
        count: Processes.
        device: ``limits.device``.

    Raises:
        BadUsage: There are fewer GPUs, or a launcher has started this process already.
    """
    if "WORLD_SIZE" in os.environ:
        raise BadUsage(
            f"A launcher has started this process as one of {os.environ['WORLD_SIZE']}, and --processes asks "
            f"for {count} more. Use one of the two: limner train --processes {count}, without the launcher."
        )
    if device == "cpu":
        return
    import torch  # counting opens no GPU

    gpus = torch.cuda.device_count()
    if 0 < gpus < count:
        raise BadUsage(
            f"--processes is {count}, and this machine has {counted(gpus, 'GPU')}. Ask for {gpus} at most, a "
            "process for each."
        )


def train_together(count: int, arguments: Sequence[str] | None = None, grace: float = GRACE) -> int:
    """Run this command line in several processes, and wait for all.

    Ctrl-C, and what else asks this process to end, is handed to each of them; they save and stop. When one
    fails, the others are asked to end, and after a time are made to.

    Args:
        count: How many.
        arguments: What follows ``limner``; those of this process when left out.
        grace: Seconds for the others.

    Returns:
        The exit code of the process that failed first; 0 where none did. One that a signal has ended counts
        128 and the signal's number, as in a shell.
    """
    line = without_flag(list(sys.argv[1:] if arguments is None else arguments))
    command = [sys.executable, "-m", "limner", *line]
    with scratch_folder() as folder:
        files = [folder / f"{rank}.json" for rank in range(count)]
        port = free_port()
        processes = [
            _start(command, environment(rank, count, port) | {ERROR_FILE: str(files[rank])})
            for rank in range(count)
        ]
        with _forwarding(processes):
            rank = _wait(processes, grace)
        if rank is None:
            return 0
        code = processes[rank].returncode
        _tell(rank, files, was_ended=code < 0)
        return 128 - code if code < 0 else code


def without_flag(arguments: list[str]) -> list[str]:
    """A command line without ``--processes N`` or ``--processes=N``."""
    line = [word for word in arguments if not word.startswith(f"{FLAG}=")]
    while FLAG in line:
        index = line.index(FLAG)
        del line[index : index + 2]
    return line


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What tells one of several processes of the others."""
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        PARENT: f"{os.getpid()} {psutil.Process().create_time()}",
    }
    return {name: str(value) for name, value in names.items()}


def end_with_parent(interval: float = 1.0) -> None:
    """Let this process save and end when the one that started it, by ``--processes`` or as torchrun, is gone.

    Without it several processes would go on that nobody sees any more: torchrun cannot end its own when it is
    killed.
    """
    words = os.environ.get(PARENT, "").split()
    if not words and ELASTIC in os.environ and os.name == "posix":
        words = [str(os.getppid()), "0"]
    if len(words) == 2:
        parent = int(words[0]), float(words[1])
        threading.Thread(target=_watch, args=(*parent, interval), name="limner-parent", daemon=True).start()


def _watch(pid: int, start: float, interval: float) -> None:
    while _lives(pid, start):
        time.sleep(interval)
    signal.raise_signal(signal.SIGTERM)


def _lives(pid: int, start: float) -> bool:
    """Whether the parent runs. A clock that is set while it does must not end a training.

    On POSIX a process whose parent is gone gets another, so that no time is compared.
    """
    if os.name == "posix":
        return os.getppid() == pid
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - start) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def leave_others(status: int) -> None:
    """End this process where it has trained with others; else return.

    What Python has to do at its end is done; what C++ would do after it is not: threads of torch's that still
    run then abort the process, at times, whose work is done.
    """
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _start(command: list[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one; all but the first say nothing but how they failed, in a file."""
    quiet = None if variables["RANK"] == "0" else subprocess.DEVNULL
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        options = {"process_group": 0}  # Ctrl-C reaches them through this process alone, once
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=quiet,
        stderr=quiet,
        env={**os.environ, **variables},
        **options,  # pyright: ignore[reportArgumentType, reportCallIssue]
    )


@contextmanager
def _forwarding(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hand signals on while it lasts."""

    def hand_on(number: int, _: object) -> None:
        for process in processes:
            _send(process, number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(OSError, ValueError):  # it has ended, or its system knows no such signal
        process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else number)


def _wait(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> int | None:
    """Wait for all; gives the rank of the first that failed."""
    first, start, is_asked = None, float("inf"), False
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        if first is None and any(codes):
            first = next(rank for rank, code in enumerate(codes) if code)
            start = time.monotonic()
        if not is_asked and time.monotonic() > start + PATIENCE:
            is_asked = True
            for process in processes:
                _send(process, signal.SIGTERM)
        if time.monotonic() > start + PATIENCE + grace:
            for process in processes:
                process.kill()
        time.sleep(INTERVAL)
    codes = [process.returncode for process in processes]
    return next((rank for rank, code in enumerate(codes) if code), None) if first is None else first


def _tell(rank: int, files: Sequence[Path], *, was_ended: bool) -> None:
    """Say why the first of them failed, where that is not what the first process has said already.

    Args:
        rank: The one that failed first.
        files: Where each writes its error.
        was_ended: A signal has ended it, so that it could say nothing.
    """
    errors = [_error(path) for path in files]
    (kind, text), is_said = errors[rank], errors[rank] == errors[0] != ("", "")
    is_said |= rank == 0 and not was_ended
    if (not is_said or kind == "ProcessLost") and leads():
        text = text or (
            "It ended without a word; a signal may have ended it. The same command goes on from the newest "
            "checkpoint."
        )
        sys.stderr.write(f"limner: error: Process {rank} of the run failed first: {printable(text)}\n")


def _error(path: Path) -> tuple[str, str]:
    """The kind and the line of the error that a process has written; two empty ones where it has not."""
    try:
        message = json.loads(path.read_bytes())["message"]
        return str(message.get("error", "")), str(message["message"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", ""
