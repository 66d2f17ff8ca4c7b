"""What the machine has left."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from limner.studio import machine


def test_disk_and_memory_are_counted(tmp_path: Path) -> None:
    for free, total in (machine.disk(tmp_path), machine.memory()):
        assert 0 <= free <= total and total > 2**20


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert machine.gpus() == []


def test_processes_that_hold_memory_are_named_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = psutil.Process().pid
    rows = [SimpleNamespace(pid=2**30, usedGpuMemory=None), SimpleNamespace(pid=pid, usedGpuMemory=7)]
    for name, value in {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=9, total=10),
        "nvmlDeviceGetComputeRunningProcesses": rows,
        "nvmlDeviceGetName": "RTX 4090",
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *_, value=value: value)
    (gpu,) = machine.gpus()
    assert (gpu.name, gpu.used, gpu.total) == ("RTX 4090", 9, 10)
    assert gpu.processes == ((f"{psutil.Process().name()} ({pid})", 7), (f"process {2**30}", 0))
