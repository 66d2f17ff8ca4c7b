"""What ``limner check`` found in a set: kept by what the files hold, so that it is asked once for each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from limner.jobs import Job
from limner.studio.images.image_set import ImageSet, SetSettings

RUNNING = ("queued", "running", "stopping")


@dataclass(frozen=True)
class CheckResult:
    """What a check wrote."""

    folder: Path
    """Where its page is."""
    is_current: bool
    """Whether nothing was changed since."""
    counts: Mapping[str, int]
    """Of images, of those left out, and of findings by level."""
    findings: list[dict[str, str]]
    """``image`` (empty: the set), ``level``, ``kind``, ``reason``, ``remedy``, of each."""
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Image -> what training sees of it: ``bucket``, ``crop``, ``crop_by``."""

    def of(self, file: str) -> list[dict[str, str]]:
        """The findings of an image."""
        return [row for row in self.findings if row["image"] == file]

    @property
    def page(self) -> Path:
        """The whole of it, for a browser."""
        return self.folder / "check.html"


def is_fixable(row: Mapping[str, str]) -> bool:
    """Whether ``limner check --fix`` repairs what a finding is about."""
    return "--fix" in row["remedy"] or row["kind"] == "left-out"


def last_check(images: ImageSet, mark: str) -> CheckResult | None:
    """What was found last; None where no check has ended."""
    home = images.own_file("checks", "")
    files = sorted(home.glob("*/check.json"), key=lambda path: path.stat().st_mtime)
    current = home / mark / "check.json"
    path = current if current.is_file() else files[-1] if files else None
    return _read(path, is_current=path == current) if path else None


def _read(path: Path, *, is_current: bool) -> CheckResult | None:
    try:
        value = json.loads(path.read_bytes())
        counts = {key: int(value[key]) for key in ("images", "left_out", "problem", "advice", "note")}
        findings = [{key: str(text) for key, text in row.items()} for row in value["findings"]]
        views = {str(row["image"]): row for row in value["seen"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return CheckResult(path.parent, is_current, counts, findings, views)


def start_check(images: ImageSet, settings: SetSettings, *, copy: Path | None = None) -> Job:
    """Queue a check; with ``copy`` it writes a repaired copy into that new folder."""
    mark = images.mark(settings)
    home = images.own_file("checks", "")
    for path in home.glob("*"):  # of those before only the last is of use
        if path.name != mark and path != _newest(home):
            rmtree(path, ignore_errors=True)
    arguments = [
        "check",
        str(images.folder),
        f"--base={settings.base}",
        f"--concept-type={settings.concept_type}",
    ]
    arguments += [f"--trigger={settings.trigger}"] if settings.trigger else []
    arguments += [f"--resolution={settings.resolution}"] if settings.resolution else []
    arguments += [f"--fix={copy}"] if copy else []
    arguments += [f"--out={home / mark}", "--exit-zero", "--events"]
    title = f"Fix {images.name}" if copy else f"Check {images.name}"
    return images.workspace.jobs.add(arguments, title=title, device="cpu", cwd=images.workspace.root)


def start_fix(images: ImageSet, settings: SetSettings) -> Job:
    """Queue a check that writes a repaired copy into a new folder: ``cats-fixed``, ``cats-fixed-2`` .."""
    stem, number = f"{images.folder.name}-fixed", 1
    while (path := images.workspace.images / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return start_check(images, settings, copy=images.workspace.inside(path))


def _newest(home: Path) -> Path | None:
    files = sorted(home.glob("*/check.json"), key=lambda path: path.stat().st_mtime)
    return files[-1].parent if files else None


def jobs_of(images: ImageSet, verb: str) -> list[Job]:
    """Jobs of a verb on this set, the newest last."""
    start = (verb, str(images.folder))
    return [job for job in images.workspace.jobs.all() if job.arguments[:2] == start]
