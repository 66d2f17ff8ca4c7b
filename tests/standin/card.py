"""A GPU that is none, for processes of their own: to be imported before torch (see ``sitecustomize.py``).

``card.cpp`` gives torch's core a device "cuda"; this gives ``torch.cuda`` what it asks of one. Environment:
``CARD`` the library that :func:`build` made, ``CARD_BYTES`` how many bytes may be taken of the 24 GB that its
driver tells. For tests of what else would only run where there is a GPU; how fast or how exact a GPU is it
cannot tell.
"""

import atexit
import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
GIB = 2**30


def _torch() -> Path:
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def build(folder: Path) -> Path | None:
    """The library, compiled into a folder unless it is there, in 15 seconds; None where no compiler is."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    out, include = folder / "libcard.so", _torch() / "include"
    if out.exists():
        return out
    told = [compiler, "-O0", "-w", "-shared", "-fPIC", "-std=c++20", f"-I{include}", str(HERE / "card.cpp")]
    subprocess.run([*told, "-o", str(out)], check=True)
    return out


def environment(library: Path, *, size: int = 24 * GIB) -> dict[str, str]:
    """What a process needs in its environment to have the card, of which it may take ``size`` bytes."""
    own = {"CARD": str(library), "CARD_BYTES": str(size), "LIMNER_CALIBRATE": "never"}
    paths = {"PYTHONPATH": str(HERE), "PATH": str(HERE / "bin")}
    for name, path in paths.items():
        own[name] = os.pathsep.join(filter(None, [path, os.environ.get(name)]))
    return {**os.environ, **own}


class Event:
    """``torch.cuda.Event``."""

    def __init__(self, **_: Any) -> None:
        self.at = (0, 0)

    def record(self, stream: "Stream | None" = None) -> None:
        which = stream or current_stream()
        self.at = (which.number, card.asked(which.number))

    def synchronize(self) -> None:
        card.flush(*self.at)

    def elapsed_time(self, _: "Event") -> float:
        return 1.0


class Stream:
    """``torch.cuda.Stream``: copies wait in it until someone waits for them."""

    numbers = itertools.count()
    every: dict[int, "Stream"] = {}  # noqa: RUF012  all that were made

    def __init__(self, *_: Any, **__: Any) -> None:
        self.number = next(self.numbers)
        self.every[self.number] = self

    def record_event(self) -> Event:
        event = Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.synchronize()

    def wait_stream(self, other: "Stream") -> None:
        other.synchronize()

    def synchronize(self) -> None:
        card.flush(self.number, -1)


class Runtime:
    """``torch.cuda.cudart()``."""

    def cudaHostRegister(self, place: int, size: int, _: int) -> int:  # noqa: N802  CUDA's own
        card.pin(place, size)
        return 0

    def cudaHostUnregister(self, place: int) -> int:  # noqa: N802
        card.unpin(place)
        return 0


def current_stream(_: Any = None) -> Stream:
    return Stream.every[card.inside()]


@contextlib.contextmanager
def stream(inner: Stream) -> Iterator[None]:
    before = card.inside()
    card.enter(inner.number)
    try:
        yield
    finally:
        card.enter(before)


def synchronize(_: Any = None) -> None:
    for each in list(Stream.every.values()):
        each.synchronize()


def _install(library: str, size: int) -> Any:
    """Give torch the device. The library comes before torch's own Python asks whether there is one."""
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    import torch

    card = torch.ops.card
    card.cap(size)
    facts = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=size, major=8, minor=9)
    silent = (
        "_lazy_init",
        "set_device",
        "empty_cache",
        "manual_seed",
        "manual_seed_all",
        "set_rng_state_all",
    )
    # a function for each, as torch's compiler keeps rules by function
    given: dict[str, Any] = {name: lambda *_: None for name in silent}
    given |= {name: lambda: True for name in ("is_available", "is_initialized", "_is_compiled")}
    given |= {name: lambda *_: card.now() for name in ("memory_allocated", "memory_reserved")}
    given |= {name: lambda *_: card.peak() for name in ("max_memory_allocated", "max_memory_reserved")}
    given |= {
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "reset_peak_memory_stats": lambda *_: card.reset_peak(),
        "mem_get_info": lambda *_: (size - card.now(), size),
        "get_device_capability": lambda *_: (facts.major, facts.minor),
        "get_device_properties": lambda *_: facts,
        "get_device_name": lambda *_: facts.name,
        "is_bf16_supported": lambda **_: True,
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "cudart": Runtime,
        "device": lambda _: contextlib.nullcontext(),
        "Stream": Stream,
        "Event": Event,
        "default_stream": lambda *_: Stream.every[0],
    }
    given |= {"current_stream": current_stream, "stream": stream, "synchronize": synchronize}
    _patch(torch.cuda, given)
    _patch(torch.Tensor, {"record_stream": lambda *_: None})
    _patch(torch.version, {"cuda": "13.0"})
    _patch(torch._C, {"_cuda_getCurrentRawStream": lambda _: 0})
    return card


def _patch(target: ModuleType | type, given: dict[str, Any]) -> None:
    for name, value in given.items():
        setattr(target, name, value)


def _settle() -> None:
    """Let the thread of autograd that serves the card let go of its last graph: it wants Python alive.

    It takes one graph after the other, so when it has done another one, the last one is gone.
    """
    import torch

    with torch.enable_grad():
        torch.ones(1, device="cuda", requires_grad=True).sum().backward()
    time.sleep(0.2)


card: Any = None
if "CARD" in os.environ:
    card = _install(os.environ["CARD"], int(os.environ["CARD_BYTES"]))
    Stream()  # the usual one
    atexit.register(_settle)
