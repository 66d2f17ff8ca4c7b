"""What every benchmark writes: a table for people, JSON for tools, and the device it ran on."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("limner", "torch", "diffusers", "transformers", "peft", "accelerate")


def device() -> dict[str, Any]:
    """The machine by name: GPU, processor, cores, and the versions that matter. Loads no torch."""
    gpu = ""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        pass  # no driver, hence no GPU to name
    return {
        "gpu": gpu or None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    """None where a package is run from its sources and not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each column of equal rows."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns also line up in a terminal; the first column is left-aligned."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        lines = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(lines) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def save(name: str, facts: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``<folder>/<name>.json`` with the device beside the facts, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"device": device(), **facts}, indent=2) + "\n", encoding="utf-8")
    return path
