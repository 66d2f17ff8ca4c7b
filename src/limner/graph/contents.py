"""What lies in a cache, by run and by unit, and how unused entries are deleted. Loads no torch."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limner.files import dead_drafts, user_cache
from limner.graph.cache import gate, held_keys, json_object, leases_folder

BATCH = 200
"""Entries deleted under one hold of the gate: a run that starts waits for no more than these."""
LARGEST_HEADER = 2**20
"""Bytes of a safetensors header that is read for the name of its unit."""
NO_RUN = ""
"""The name under which entries are counted that no run on record reads."""
OTHER = {
    "bases": "one-file bases in diffusers layout; made again when they are missing",
    "profiles": "traced memory profiles that plans are made from; traced again when they are missing",
    "devices": "measured speeds of this machine's GPUs (limner plan --calibrate)",
    "configs": "configs of bases; downloaded again when they are missing",
    "lenders": "parts of other bases that one-file bases lack; downloaded again when they are missing",
    "fingerprints": "hashes of weight files; computed again when they are missing",
    "captions": "how many captions of large folders are too long; counted again when missing",
    "images": "hashes and sizes of images in large folders; read again when they are missing",
    "scratch": "folders that are being uploaded or read by processes; empty when nothing runs",
}
"""The other folders of Limner in the user's cache, and what they hold."""


@dataclass(frozen=True)
class StoredEntry:
    """One stored entry."""

    path: Path
    bytes: int
    used: float
    """When a run last started with it, seconds since 1970."""

    @property
    def key(self) -> str:
        """Its cache key."""
        return self.path.stem


@dataclass(frozen=True)
class EntryGroup:
    """Entries that belong together: those of one run, or of one unit."""

    name: str
    entries: int
    bytes: int
    used: float | None
    """When a run last started with one of them, seconds since 1970; None for no entry."""
    in_use: int
    """How many of them a running process holds."""


@dataclass(frozen=True)
class OtherFolder:
    """Another folder of Limner in the user's cache."""

    name: str
    path: Path
    files: int
    bytes: int
    holds: str


@dataclass(frozen=True)
class CacheContents:
    """What lies in a cache."""

    folder: Path
    entries: int
    bytes: int
    in_use: int
    runs: list[EntryGroup] = field(default_factory=list)
    """By run folder, the latest first. An entry that several runs read is counted for each of them; those
    that no run on record reads are under ``NO_RUN``."""
    units: list[EntryGroup] = field(default_factory=list)
    """By the unit that computed them, the largest first."""
    other: list[OtherFolder] = field(default_factory=list)


@dataclass(frozen=True)
class PruneReport:
    """What a prune deleted, or would delete."""

    folder: Path
    deleted_entries: int
    freed_bytes: int
    """Those of drafts included."""
    remaining_entries: int
    remaining_bytes: int
    in_use: int
    """How many of the remaining entries a running process holds: they stay whatever the age and the size."""
    drafts: int
    """Half-written files that killed processes had left."""
    dry_run: bool


def contents(root: Path) -> CacheContents:
    """List a cache: sizes and times of last use, by run and by unit; what runs hold now; other folders."""
    entries, leases = list(_entries(root)), _leases(root)
    runs = _by_run(root, entries)
    units: dict[str, list[StoredEntry]] = {}
    for entry in entries:
        units.setdefault(_unit_of(entry.path), []).append(entry)
    run_keys = {entry.key for _, group in runs for entry in group}
    if orphans := [entry for entry in entries if entry.key not in run_keys]:
        runs.append((NO_RUN, orphans))
    return CacheContents(
        folder=root,
        entries=len(entries),
        bytes=sum(entry.bytes for entry in entries),
        in_use=sum(entry.key in leases for entry in entries),
        runs=[_group(name, group, leases) for name, group in runs],
        units=sorted((_group(name, group, leases) for name, group in units.items()), key=lambda g: -g.bytes),
        other=list(_other()),
    )


def _size(draft: Path) -> int:
    """Bytes of a draft's files; 0 where another process has just cleared it."""
    try:
        return sum(path.stat().st_size for path in draft.iterdir())
    except OSError:
        return 0


def prune(
    root: Path, *, older_than: float | None = None, max_size: int | None = None, dry_run: bool = False
) -> PruneReport:
    """Delete entries that were not used lately, and half-written files of killed processes.

    It may run beside any number of trainings: what a running process holds stays.

    Args:
        root: The cache.
        older_than: Delete entries with which no run has started for so many seconds.
        max_size: Then delete entries, the longest unused first, until the rest has at most so many bytes.
        dry_run: Only say what would be deleted.
    """
    entries = sorted(_entries(root), key=lambda entry: (entry.used, entry.key))
    leases = _leases(root)
    idle = [entry for entry in entries if entry.key not in leases]
    victims = _victims(idle, sum(entry.bytes for entry in entries), older_than, max_size)
    drafts = [draft for shard in root.glob("??") for draft in dead_drafts(shard)]
    draft_bytes = sum(_size(draft) for draft in drafts)
    if not dry_run:
        victims = list(_delete(root, victims))
        for draft in drafts:
            shutil.rmtree(draft, ignore_errors=True)
        _forget_lost_runs(root)
    victim_keys = {entry.key for entry in victims}
    rest = [entry for entry in entries if entry.key not in victim_keys]
    return PruneReport(
        folder=root,
        deleted_entries=len(victims),
        freed_bytes=draft_bytes + sum(entry.bytes for entry in victims),
        remaining_entries=len(rest),
        remaining_bytes=sum(entry.bytes for entry in rest),
        in_use=sum(entry.key in leases for entry in rest),
        drafts=len(drafts),
        dry_run=dry_run,
    )


def _victims(
    idle: Sequence[StoredEntry], size: int, older_than: float | None, max_size: int | None
) -> list[StoredEntry]:
    """Which of the entries that nobody holds are to go, given the longest unused first."""
    now = time.time()
    victims: list[StoredEntry] = []
    for entry in idle:
        old = older_than is not None and now - entry.used >= older_than
        if old or (max_size is not None and size > max_size):
            victims.append(entry)
            size -= entry.bytes
    return victims


def _delete(root: Path, victims: Sequence[StoredEntry]) -> Iterator[StoredEntry]:
    """Delete entries batch by batch and give those that went.

    Between two batches a run may have started. So each batch looks anew who holds what, and which entries
    were used since they were chosen.
    """
    for start in range(0, len(victims), BATCH):
        with gate(root):
            leases = held_keys(root)
            for entry in victims[start : start + BATCH]:
                if entry.key not in leases and _used(entry.path) == entry.used:
                    entry.path.unlink(missing_ok=True)
                    yield entry


def _leases(root: Path) -> set[str]:
    if not leases_folder(root).is_dir():  # looking creates nothing
        return set()
    with gate(root):
        return held_keys(root)


def _entries(root: Path) -> Iterator[StoredEntry]:
    for path in root.glob("??/*.safetensors"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another process deleted it just now
            continue
        yield StoredEntry(path, facts.st_size, facts.st_mtime)


def _used(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _by_run(root: Path, entries: Sequence[StoredEntry]) -> list[tuple[str, list[StoredEntry]]]:
    """(run folder, its entries) of every run on record whose folder is there, the latest used first."""
    by_key = {entry.key: entry for entry in entries}
    runs = []
    for record in (root / "runs").glob("*.json"):
        facts = json_object(record)
        keys = json_object(Path(facts["index"])).get("addresses", ()) if facts else ()
        if group := [by_key[key] for key in keys if key in by_key]:
            runs.append((str(facts["run"]), group))
    return sorted(runs, key=lambda pair: -max(entry.used for entry in pair[1]))


def _forget_lost_runs(root: Path) -> None:
    """Delete the records of runs whose folder is gone. A run that comes back is put on record again."""
    for record in (root / "runs").glob("*.json"):
        facts = json_object(record)
        if not facts or not Path(facts["index"]).is_file():
            record.unlink(missing_ok=True)


def _group(name: str, entries: Sequence[StoredEntry], leases: set[str]) -> EntryGroup:
    return EntryGroup(
        name=name,
        entries=len(entries),
        bytes=sum(entry.bytes for entry in entries),
        used=max((entry.used for entry in entries), default=None),
        in_use=sum(entry.key in leases for entry in entries),
    )


def _unit_of(path: Path) -> str:
    """The unit that computed an entry: in its metadata, else the names of its tensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        facts = header.pop("__metadata__", {})
        return facts.get("unit") or "+".join(sorted(header))
    except (OSError, ValueError, AttributeError):
        return "damaged"


def _other() -> Iterator[OtherFolder]:
    for name, holds in OTHER.items():
        path = user_cache(name)
        files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
        if files:
            yield OtherFolder(name, path, len(files), sum(file.stat().st_size for file in files), holds)
