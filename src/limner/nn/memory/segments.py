"""Whether torch's allocator on CUDA may use segments that grow, which leave hardly a gap. No torch."""

import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXPANDABLE = "expandable_segments:True"
NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""What torch reads: below 2.9 the first alone, others warn of neither."""


@cache
def expandable() -> bool:
    """Whether this platform has them: Linux on a GPU of NVIDIA's of its own.

    Windows has none (torch warns). Under WSL and on Jetson the first allocation may fail with a driver error
    (pytorch issue 192330), and ROCm's are not stable.
    """
    if sys.platform != "linux" or Path("/etc/nv_tegra_release").exists():
        return False
    release = os.uname().release.lower()
    if "microsoft" in release or "tegra" in release:
        return False
    try:
        return "rocm" not in version("torch")
    except PackageNotFoundError:
        return True


def configure() -> None:
    """Ask torch for them where there are any; read when torch is loaded. What the user said stands."""
    value = next((os.environ[name] for name in NAMES if os.environ.get(name)), None)
    value = value or (EXPANDABLE if expandable() else None)
    for name in NAMES if value else ():
        os.environ.setdefault(name, str(value))
