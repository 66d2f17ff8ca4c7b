"""The device that a run is planned for: this machine's, read without torch, or a card that is wished for.

Free memory is read from the driver, not from a name; rates that ``limner plan --calibrate`` measured here
take the place of those of the table.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pynvml

from limner.errors import BadUsage
from limner.files import user_cache, write_json
from limner.planning import cards, devices
from limner.planning.devices import SPARE, Device
from limner.recipe.fields import parse_size
from limner.recipe.schema import Limits

DRIVER, FORM = "nvidia-smi", "--format=csv,noheader,nounits"
QUERY = (DRIVER, "--query-gpu=name,memory.total,memory.free", FORM)
CAPABILITY_QUERY = (DRIVER, "--query-gpu=compute_cap", FORM)
"""For cards that are not in the table: older drivers do not know this question."""
PROCESS_QUERY = (DRIVER, "--query-compute-apps=pid,process_name,used_gpu_memory", FORM)
RATES_VERSION = 3
"""Version of what ``limner plan --calibrate`` measures: rates of another one mean something else."""
PATIENCE = 10
"""Seconds that the driver may take to answer."""


@dataclass(frozen=True)
class LocalGpu:
    """A GPU that is here."""

    name: str
    memory: int
    free: int


def device_for(limits: Limits, *, card: str | None = None) -> Device:
    """What a run is planned for.

    Args:
        limits: ``device``, ``vram`` and ``ram`` of a recipe.
        card: A card's name, if it shall be planned for another than is here.

    Raises:
        BadUsage: No such card is known, or sizes that cannot be.
    """
    device = _wished(limits, card)
    if limits.ram != "auto":
        device = device.with_ram(parse_size(limits.ram))
    return device


def _wished(limits: Limits, card: str | None) -> Device:
    memory = None if limits.vram == "auto" else parse_size(limits.vram)
    if card is not None:
        match = cards.known(card)
        words = cards.strange(card, match) if match else []
        if match is None or words:
            names = {entry.name.lower(): entry.name for entry in cards.CARDS}
            close = [names[name] for name in get_close_matches(card.lower(), names, n=4, cutoff=0.5)]
            hint = f"Near it: {', '.join(close)}." if close else f"Known: {cards.RANGE}."
            doubt = f", nor what {' '.join(words)!r:.40} means in a name" if words else ""
            raise BadUsage(f"No card {card!r:.60} is known{doubt}. {hint} Or say its memory: --vram 12GB.")
        return devices.of_card(match, memory)
    if limits.device == "cpu":
        return measured_rates(processor())
    local_gpu = gpu()
    if memory is None:
        return measured_rates(present(local_gpu)) if local_gpu else measured_rates(processor())
    if local_gpu:
        return measured_rates(_limited(present(local_gpu), memory))
    return replace(devices.of_card(cards.typical(memory / 2**30), memory), origin="size")


def gpu() -> LocalGpu | None:
    """The GPU of this machine that this process would use, as its driver tells; None when there is none."""
    fields = _driver_fields(QUERY)
    if fields is None:
        return None
    name, memory, free = fields
    if not (memory.isdigit() and free.isdigit()):
        return None
    return LocalGpu(name, int(memory) * 2**20, int(free) * 2**20)


def gpu_processes() -> list[tuple[str, int, int]]:
    """(name, process id, bytes) of the processes that compute on a GPU here, the largest first.

    Drivers that do not tell the sizes, as on a Windows desktop, tell nothing here.
    """
    holders = []
    for fields in _driver_lines(PROCESS_QUERY):
        pid, _, rest = fields.partition(",")
        name, _, memory = rest.rpartition(",")
        if pid.strip().isdigit() and memory.strip().isdigit():
            path = name.strip().replace("\\", "/")
            holders.append((path.rpartition("/")[2] or path, int(pid), int(memory) * 2**20))
    return sorted(holders, key=lambda holder: -holder[2])


def _driver_fields(query: tuple[str, ...]) -> list[str] | None:
    """What the driver answers about the GPU that this process would use, field by field."""
    lines = [line for line in _driver_lines(query) if line.count(",") == query[1].count(",")]
    index = _index()
    if index is None or index >= len(lines):
        return None
    return [word.strip() for word in lines[index].split(",")]


def _index() -> int | None:
    """The driver's number of the GPU that this process would use; None where none is visible to it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if visible is None:
        return rank
    numbers = visible.split(",")
    first = numbers[rank].strip() if rank < len(numbers) else ""
    return int(first) if first.isdigit() else None


def _driver_lines(query: tuple[str, ...]) -> list[str]:
    """What the driver answers, line by line; nothing where there is none, or it has no card."""
    if shutil.which(query[0]) is None:
        return []
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return []  # a driver without a card says so with an error
    return output.splitlines()


def _capability() -> tuple[int, int] | None:
    """CUDA's compute capability of the GPU that is here."""
    major, _, minor = (_driver_fields(CAPABILITY_QUERY) or [""])[0].partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}
"""PCIe generation -> 10^9 bytes per second of a lane, in one direction."""


def circuits() -> cards.Circuits | None:
    """Cores, clocks and buses of the GPU that is here, as NVIDIA's library (NVML) tells, if it does."""
    index = _index()
    if index is None:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            generation = pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            return cards.Circuits(
                capability=(major, minor),
                cores=pynvml.nvmlDeviceGetNumGpuCores(handle),
                clock=pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
                memory_clock=pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM),
                bus_width=pynvml.nvmlDeviceGetMemoryBusWidth(handle),
                pcie=LANE[generation] * pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
            )
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, KeyError):
        return None  # no driver, an old one, or a part of a card


def present(card: LocalGpu) -> Device:
    """A GPU that is here: what is free right now, but for a little; at the rates of its name or circuits."""
    size = card.memory / 2**30
    match = cards.known(f"{card.name} {round(size)}GB")  # some names stand for two sizes, and two speeds
    entry, source = (match, "") if match else _unknown(card, size)
    device = devices.of_card(entry, card.memory)
    free = max(0, min(card.free, card.memory) - SPARE)
    total, available = _ram()
    return replace(
        device.with_ram(available),
        name=card.name,
        free=free,
        reserve=card.memory - free,
        source=source or device.source,
        origin="here",
        compiles=device.compiles and able_to_compile(),
        pinned=min(round(total * devices.PINNED), available),
    ).with_capability(entry.capability)


def _unknown(card: LocalGpu, size: float) -> tuple[cards.Card, str]:
    """What stands for a card that is in no table, and where its rates are from."""
    if parts := circuits():
        return cards.estimated(card.name, size, parts), ""
    capability = _capability()
    entry = cards.typical(size, capability)
    return replace(entry, capability=capability), f"not in the table, so those of {entry.name}"


def able_to_compile() -> bool:
    """Whether torch can compile for a GPU here: with Triton, which has a C compiler build what it launches.

    ``TORCH_COMPILE_DISABLE=1`` says that it shall not.
    """
    if os.environ.get("TORCH_COMPILE_DISABLE", "0") != "0" or find_spec("triton") is None:
        return False
    if sys.platform == "win32":  # its package brings a compiler
        return True
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    builder = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), None)
    return headers.is_file() and builder is not None


def _limited(device: Device, memory: int) -> Device:
    """A card that is here as if it had other memory: less of its own, or that of a larger one."""
    limit = replace(device, reserve=devices.DESKTOP).with_memory(memory)
    return replace(limit, free=min(limit.free, device.free)) if memory <= device.memory else limit


def processor() -> Device:
    """This machine's processor and memory, within what its control group allows."""
    total, available = _ram()
    return devices.of_cpu(_cores(), total, available)


def _cores() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(int(threads), cores) if threads.isdigit() and int(threads) else cores


def _ram() -> tuple[int, int]:
    """Bytes of memory that the host has, and that are available to a new process."""
    usage = psutil.virtual_memory()
    total, available = usage.total, usage.available
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    text = limit.read_text().strip() if limit.is_file() else "max"
    if text.isdigit():  # a container may have less than its host
        rest = max(0, int(text) - int((group / "memory.current").read_text()))
        total, available = min(total, int(text)), min(available, rest)
    return total, available


def constants_path(name: str) -> Path:
    """Where the measured rates of a device are kept."""
    return user_cache("devices") / f"{devices.slug(name)}.json"


def measured_rates(device: Device) -> Device:
    """The device at the rates that were measured on it, if they were."""
    path = constants_path(device.name)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != RATES_VERSION:
            return device
        return devices.calibrated(device, record["rates"], str(record["date"]))
    except (OSError, ValueError, LookupError, TypeError):
        return device  # never measured, or by a version that measured other things


def keep_rates(device: Device, rates: devices.Rates, facts: dict[str, Any]) -> Path:
    """Write down rates that were measured, for every plan to come."""
    path = constants_path(device.name)
    today = date.today().isoformat()
    header = {"version": RATES_VERSION, "device": device.name, "date": today, **facts}
    write_json(path, header | {"rates": devices.rates_to_json(rates)})
    return path
