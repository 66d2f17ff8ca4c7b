"""The verb ``doctor``: what is installed, what is missing, and the command that mends it."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from limner.captions import catalog
from limner.errors import first_line
from limner.files import human, shared_cache
from limner.recipe.optimizers import OPTIMIZERS

PYTHON = (3, 11)
ROOM = 2_000_000_000
"""Bytes that the cache and a run of modest size want."""

OTHER_PACKAGES = {
    "opencv-python-headless": ("crop", "crops that follow the subject, limner check"),
    "smartcrop": ("crop", "crops that follow the subject, limner check"),
    "tensorboard": ("track", "track.with tensorboard"),
    "wandb": ("track", "track.with wandb"),
    "trackio": ("track", "track.with trackio"),
    "pillow-heif": ("heif", "reading HEIC photos"),
}
"""Optional package -> extra that brings it, what it is for; besides those of providers and optimizers."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing looked at.

    Attributes:
        name: What it is.
        ok: False only for what training cannot do without, or for a GPU left unused.
        detail: What was found, with versions and sizes.
        remedy: What to do; empty when nothing is to be done.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor() -> list[Diagnosis]:
    """Look at Python, the packages, the device, the disk and the embedded base. Changes nothing."""
    packages = [_package(requirement) for requirement in required()]
    optional = [_extra(name, *extra) for name, extra in optional_packages().items()]
    return [_python(), *packages, _device(), *optional, _room(shared_cache()), _embedded()]


def required() -> Iterator[Requirement]:
    """The packages that Limner cannot do without, each with the versions that it takes."""
    for line in importlib.metadata.requires("limner") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _python() -> Diagnosis:
    ok = sys.version_info >= PYTHON
    minimum = ".".join(map(str, PYTHON))
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Diagnosis(
        "python", ok, detail, "" if ok else f"Install Python {minimum} or newer, then Limner again."
    )


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(requirement: Requirement) -> Diagnosis:
    name, version = requirement.name, _installed(requirement.name)
    command = f"{name}{requirement.specifier}"
    if version is None:
        return Diagnosis(name, False, "not installed", f'pip install "{command}"')
    if not requirement.specifier.contains(Version(version), prereleases=True):
        detail = f"{version}, {requirement.specifier} is needed"
        return Diagnosis(name, False, detail, f'pip install --upgrade "{command}"')
    return Diagnosis(name, True, version)


def optional_packages() -> dict[str, tuple[str, str]]:
    """Package -> extra that brings it, what it is for: of caption providers, optimizers, and the rest."""
    optimizers = {
        record.package: (record.extra, f"{record.title} (train.optimizer = {record.name})")
        for record in reversed(OPTIMIZERS.values())
        if record.package
    }
    return catalog.optional_packages() | optimizers | OTHER_PACKAGES


def _extra(name: str, extra: str, use: str) -> Diagnosis:
    version = _installed(name)
    if version is None:
        return Diagnosis(name, True, f"not installed; optional, for {use}", f'pip install "limner[{extra}]"')
    return Diagnosis(name, True, f"{version}, for {use}")


def _device() -> Diagnosis:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:  # OSError: a shared library of the build is missing
        return Diagnosis(
            "device",
            False,
            f"torch cannot be loaded: {first_line(error)}",
            "Install torch again: pip install torch",
        )
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        build = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        count = torch.cuda.device_count()
        return Diagnosis(
            "device", True, f"{count} x {gpu.name}, {human(gpu.total_memory)}, torch for {build}"
        )
    if torch.backends.mps.is_available():
        return Diagnosis("device", True, "Apple GPU (mps)")
    toolkit = torch.version.cuda or torch.version.hip
    if shutil.which("nvidia-smi") and not toolkit:
        remedy = "pip install torch --index-url https://download.pytorch.org/whl/cu128 --force-reinstall"
        return Diagnosis(
            "device", False, "an NVIDIA driver is here, but this torch is built for CPUs", remedy
        )
    detail = f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores; enough for the embedded base"
    return Diagnosis("device", True, detail, "FLUX.1 in bf16 wants a GPU with 40 GB.")


def _room(folder: Path) -> Diagnosis:
    ancestor = folder
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    free = shutil.disk_usage(ancestor).free
    detail = f"{folder}, {human(free)} free"
    if not os.access(ancestor, os.W_OK):
        return Diagnosis(
            "cache", False, f"{folder} cannot be written", "Set LIMNER_CACHE to a folder of yours."
        )
    if free < ROOM:
        return Diagnosis(
            "cache", False, detail, f"Free {human(ROOM - free)}, or set LIMNER_CACHE to another disk."
        )
    return Diagnosis("cache", True, detail)


def _embedded() -> Diagnosis:
    root = Path(importlib.import_module("limner.bases").__path__[0]) / "glyph"
    files = [path for path in root.rglob("*") if path.is_file()]
    if not (root / "model_index.json").is_file():
        return Diagnosis("embedded base", False, f"{root} is missing", "Install Limner again.")
    size = sum(path.stat().st_size for path in files)
    return Diagnosis("embedded base", True, f"glyph, {human(size)}")
