"""The verb ``doctor``: what this machine can train, what is missing, and the command that mends it."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
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


USEFUL = ("bitsandbytes",)
"""Optional packages that a machine with a GPU gains by: AdamW in 8 bits, where memory is short."""
NOTABLE_USE = 2**30
"""Bytes of GPU memory held by others that are worth a word of advice."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing looked at.

    Attributes:
        name: What it is.
        ok: False only for what training cannot do without, or for a GPU left unused.
        detail: What was found, with versions and sizes.
        remedy: What to do; empty when nothing is to be done.
        optional: Whether it is a package that training does without.
        useful: Of an optional package that is missing: whether this machine would gain by it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False
    useful: bool = False


def doctor() -> list[Diagnosis]:
    """Look at Python, the packages, the device, the disk and the embedded base. Changes nothing."""
    packages = [_package(requirement) for requirement in required()]
    has_gpu = shutil.which("nvidia-smi") is not None
    optional = [_extra(name, *extra, has_gpu=has_gpu) for name, extra in optional_packages().items()]
    return [_python(), *packages, _device(), *_holders(), *optional, _room(shared_cache()), _embedded()]


def abilities() -> str:
    """What this machine can train, in a line, by the same estimates as ``limner plan``."""
    from limner.planning.describe import device_label, duration
    from limner.planning.survey import survey
    from limner.reporter import Reporter
    from limner.target import template

    result = survey(lambda base: template({"base": base, "data.images": Path("-")}), Reporter())
    device = device_label(result.device)
    rows = [row for row in result.estimates if row.total and not row.base.toy]
    if not rows:
        return (
            f"On {device} Limner trains glyph, the toy base: no GPU was found. What a card would train: "
            'limner plan --card "RTX 4090".'
        )
    names = ", ".join(f"{row.base.name} ({duration(row.total.seconds)})" for row in rows if row.total)
    misfits = [row for row in result.estimates if row.choice is None and row.card]
    reasons = ", ".join(f"{row.base.name} needs a card of {row.card} GB" for row in misfits)
    return (
        f"On {device} Limner trains {names}: a preset's run on ten images each."
        f"{f' Not: {reasons}.' if reasons else ''} The whole table: limner plan."
    )


def summary(findings: Sequence[Diagnosis]) -> str:
    """The first line: what is in the way, or what this machine can train."""
    faults = [finding.name for finding in findings if not finding.ok]
    if faults:
        return f"Not ready to train: {', '.join(faults)}. What to do stands below."
    return f"Ready. {abilities()}"


def lines(findings: Sequence[Diagnosis]) -> list[str]:
    """Findings for people: what is in the way, what is there, and what is worth installing."""
    text = []
    for finding in findings:
        if not finding.ok or not finding.optional:
            text.append(f"{'ok ' if finding.ok else 'BAD'}  {finding.name}: {finding.detail}")
            text += [f"     -> {finding.remedy}"] if finding.remedy else []
    extras = [finding for finding in findings if finding.optional]
    present = [f"{extra.name} {extra.detail.partition(',')[0]}" for extra in extras if not extra.remedy]
    text += [f"ok   optional packages: {', '.join(present)}"] if present else []
    missing = [extra for extra in extras if extra.remedy]
    if useful := [extra for extra in missing if extra.useful]:
        text.append("Worth installing:")
        text += [f"  {extra.remedy}    {extra.name}: {extra.detail}" for extra in useful]
    if rest := [extra for extra in missing if not extra.useful]:
        commands = dict.fromkeys(extra.remedy for extra in rest)
        text.append("Only when asked for:")
        for command in commands:
            uses = dict.fromkeys(extra.detail for extra in rest if extra.remedy == command)
            text.append(f"  {command}    {', '.join(uses)}")
    return text


def _holders() -> list[Diagnosis]:
    """The processes that hold memory of the GPU, the largest first."""
    from limner.planning.local_device import gpu_processes
    from limner.recipe.fields import label

    holders = gpu_processes()
    if not holders:
        return []
    text = ", ".join(f"{name} {label(size)} (process {pid})" for name, pid, size in holders)
    total = sum(size for *_, size in holders)
    remedy = "Close what you do not need before training." if total >= NOTABLE_USE else ""
    return [Diagnosis("GPU memory in use", True, text, remedy)]


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


def _extra(name: str, extra: str, use: str, *, has_gpu: bool) -> Diagnosis:
    version = _installed(name)
    if version is None:
        remedy, useful = f'pip install "limner[{extra}]"', name in USEFUL and has_gpu
        return Diagnosis(name, True, use, remedy, optional=True, useful=useful)
    return Diagnosis(name, True, f"{version}, for {use}", optional=True)


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
    return Diagnosis("device", True, detail)


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
