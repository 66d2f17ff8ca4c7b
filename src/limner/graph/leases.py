"""Leases: which cache entries a running process reads, so that a prune in another process spares them.

A lease is a list of cache keys and a lock. The operating system drops the lock with the process, so a killed
run protects nothing. One more lock, the gate, orders processes that meet: a reader writes its lease before
it looks which entries are there, and a prune deletes no entry without the gate. So an entry that a reader has
seen is never taken from it.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from limner.files import atomic_write

GATE = "gate.lock"


def leases_folder(root: Path) -> Path:
    """Where the leases of a cache lie."""
    return root / "leases"


def gate(root: Path) -> FileLock:
    """The lock under which leases are written and entries are deleted. It is held for moments only."""
    folder = leases_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / GATE)


class Lease:
    """One process's claim on cache entries, from ``hold`` until ``release`` or the end of the process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = leases_folder(root) / f"{uuid.uuid4().hex}.json"
        # whichever thread takes the lease, any may give it up
        self._lock = FileLock(self._path.with_suffix(".lock"), thread_local=False)
        self._keys: set[str] = set()

    def hold(self, keys: Iterable[str]) -> None:
        """Claim these entries as well, whether they are there or will be written."""
        new_keys = set(keys) - self._keys
        if not new_keys:
            return
        self._keys |= new_keys
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "keys": sorted(self._keys)}
        with gate(self.root):
            if not self._lock.is_locked:
                list(_living(self.root))  # what killed runs left does not pile up
                self._lock.acquire(blocking=False)  # the name is new: nobody else can have it
            atomic_write(self._path, lambda draft: draft.write_text(json.dumps(facts)), sync=False)

    def release(self) -> None:
        """Give all of them up. May be called again."""
        self._keys.clear()
        if self._lock.is_locked:
            self._path.unlink(missing_ok=True)
            self._lock.release()
            self._path.with_suffix(".lock").unlink(missing_ok=True)


def held_keys(root: Path) -> set[str]:
    """Keys of all entries that some process holds now.

    Call it under the ``gate``: otherwise another lease may begin meanwhile.
    """
    keys: set[str] = set()
    for lease in _living(root):
        with suppress(FileNotFoundError):  # released just now
            keys |= set(json.loads(lease.read_text(encoding="utf-8"))["keys"])
    return keys


def _living(root: Path) -> Iterator[Path]:
    """Leases of processes that live. Those of processes that have ended are deleted on the way."""
    for path in leases_folder(root).glob("*.lock"):
        if path.name == GATE:
            continue
        lease, lock = path.with_suffix(".json"), FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield lease
            continue
        lease.unlink(missing_ok=True)
        lock.release()
        path.unlink(missing_ok=True)
