"""What the machine has left, as Home shows it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class GpuUse:
    """Memory of a GPU, and the processes that hold some of it."""

    name: str
    used: int
    """Bytes."""
    total: int
    processes: tuple[tuple[str, int], ...]
    """Name and bytes, the largest first."""


def disk(folder: Path) -> tuple[int, int]:
    """(free, total) bytes of the disk that a folder lies on."""
    usage = shutil.disk_usage(folder)
    return usage.free, usage.total


def memory() -> tuple[int, int]:
    """(free, total) bytes of RAM."""
    usage = psutil.virtual_memory()
    return usage.available, usage.total


def gpus() -> list[GpuUse]:
    """The GPUs that the driver tells of; none where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> GpuUse:
    import pynvml

    facts = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        rows = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:  # some drivers tell nothing of other people's processes
        rows = []
    processes = [(_process_name(row.pid), int(row.usedGpuMemory or 0)) for row in rows]
    name = pynvml.nvmlDeviceGetName(handle)
    return GpuUse(
        str(name),
        int(facts.used),
        int(facts.total),
        tuple(sorted(processes, key=lambda row: row[1], reverse=True)),
    )


def _process_name(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} ({pid})"
    except psutil.Error:
        return f"process {pid}"
