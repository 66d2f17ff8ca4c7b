"""A smaller card played on a large one: a cap on the process, a ballast beside it, and what is used in all.

The cap is torch's own (``set_per_process_memory_fraction``), which stops what its allocator asks for. The
ballast is plain ``cudaMalloc`` in a second process, so that what no allocator of torch counts (the context,
workspaces of libraries, other allocators) has to fit as well. What is played is the memory alone: the
arithmetic, the memory's speed and the bus are those of the card that is there.
"""

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO

from gpu.cells import GIB
from limner.nn.memory.plan import CONTEXT as CONTEXTS

CONTEXT = CONTEXTS["cuda"]
"""Bytes beside torch's allocator, as plans count them: with a cap below the plan, a plan that is exact would
end out of memory. What a context really takes is in the row, as the whole device's memory is read."""
DESKTOP = GIB
"""Bytes that a screen and other programs take of a card that has one."""
SERVER = 40
"""Cards of so many GiB and more drive no screen."""
CHUNK = GIB // 2
PERIOD = 0.05
"""Seconds between two looks at what is used."""
RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")


@dataclass(frozen=True)
class Played:
    """Bytes of a card that is played on a larger one."""

    memory: int
    """All that the card has."""
    usable: int
    """What a run may take of it: all but a desktop's share."""
    cap: int
    """What torch's allocator may take of that."""

    def fraction(self, total: int) -> float:
        """The cap as a share of the card that is there."""
        return min(1.0, self.cap / total)

    def ballast(self, free: int) -> int:
        """Bytes to take away from ``free`` ones so that ``usable`` are left. 0: there are not more."""
        return max(0, free - self.usable)


def played(gib: int) -> Played:
    """A card by its size."""
    memory = gib * GIB
    usable = memory - (0 if gib >= SERVER else DESKTOP)
    return Played(memory, usable, usable - CONTEXT)


def runtime() -> ctypes.CDLL:
    """CUDA's runtime library, as torch's own package brings it along.

    Raises:
        OSError: There is none.
    """
    import torch  # noqa: F401  loads its libraries, so that they are found by name

    for name in RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"None of {', '.join(RUNTIMES)} can be loaded: no CUDA runtime here, so no ballast.")


def hold(usable: int, out: IO[str], wait: Callable[[], object]) -> int:
    """Take all but ``usable`` bytes; say so; keep them until ``wait`` returns. The bytes taken."""
    cuda = runtime()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _check(cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)), "cudaMemGetInfo")
    remainder = size = max(0, free.value - usable)
    place = ctypes.c_void_p()
    while remainder > 0:
        _check(cuda.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(min(CHUNK, remainder))), "cudaMalloc")
        remainder -= CHUNK
    _check(cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)), "cudaMemGetInfo")
    out.write(f"{size} {free.value} {total.value}\n")
    out.flush()
    wait()
    return size


def _check(code: int, call: str) -> None:
    if code:
        raise OSError(f"{call} answered {code}.")


@contextmanager
def ballast(card: Played, *, command: list[str] | None = None) -> Iterator[tuple[int, int]]:
    """Hold memory in a process of its own while the block runs. Gives (taken, free) bytes.

    Raises:
        OSError: The process could not take it.
    """
    program = command or [sys.executable, "-m", "gpu.emulation", str(card.usable)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline().split()
        if len(line) != 3:
            raise OSError(f"The ballast of a card of {card.memory / GIB:.0f} GiB could not be taken.")
        yield int(line[0]), int(line[1])
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=60)


class Gauge:
    """The most bytes used on the first GPU while the block runs, of all processes, above those at its start.

    NVML is asked in a thread of this process, or ``nvidia-smi`` where its module is missing; without a GPU
    it stays empty. It is the watched process that is left alone.
    """

    def __init__(self, read: Callable[[], int] | None = None) -> None:
        self.read = read or _reader()
        self.peak: int | None = None
        self._first = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Gauge":
        """Start."""
        if self.read:
            self._first = self.read()
            self.peak = 0
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._over.set()
        if self.read:
            self._thread.join()

    def _watch(self) -> None:
        assert self.read is not None
        while not self._over.is_set():
            self.peak = max(self.peak or 0, self.read() - self._first)
            time.sleep(PERIOD)


def _reader() -> Callable[[], int] | None:
    """How the bytes used on the first GPU are read; None where no driver tells them."""
    if read := _nvml():
        return read
    try:
        _driver()
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    return _driver


def _nvml() -> Callable[[], int] | None:
    if find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetMemoryInfo(handle)  # not told of a card that is shared out (MIG)
    except pynvml.NVMLError:
        return None
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _driver() -> int:
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout) * 2**20


if __name__ == "__main__":
    hold(int(sys.argv[1]), sys.stdout, sys.stdin.read)
