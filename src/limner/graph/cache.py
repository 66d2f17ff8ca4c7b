"""A store of tensors under the hash of everything they were made from, and leases on its entries.

A lease says which entries a running process reads, so that a prune in another process spares them: a list of
cache keys and a lock. The operating system drops the lock with the process, so a killed run protects nothing.
One more lock, the gate, orders processes that meet: a reader writes its lease before it looks which entries
are there, and a prune deletes no entry without the gate. So an entry that a reader has seen is never taken
from it.

A start of 100,000 entries must not read them all again. So a large run records which were found whole. An
entry is known by its size and by the fraction of a second of its time of change, which stays when the whole
seconds are moved to say when it was last used. What is altered otherwise is found when it is read.
"""

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from limner.errors import BadCache
from limner.files import atomic_write, real_path, write_json, write_text
from limner.graph.unit import Unit

FORMAT = "1"
AGAIN = "Delete it and run again."
"""What is to be done about an entry that is damaged."""
MIN_ENTRIES = 256
"""Entries of a run from which on records are kept: fewer are read in a second."""
RECORD = "verified.json"
SECOND = 10**9
"""Nanoseconds."""

Mark = list[int]
"""Bytes of an entry, and nanoseconds of its time of change beyond whole seconds."""


class Held(NamedTuple):
    """What was found of the entries that a run holds."""

    present: frozenset[str]
    """Cache keys of those that are there."""
    suspects: tuple[str, ...]
    """Those of them that have to be read to know that they are whole, sorted."""


@lru_cache(maxsize=4096)
def text_cache_key(text: str) -> str:
    """The cache key of a value that is a text, such as a caption."""
    return hashlib.sha256(b"text\0" + text.encode()).hexdigest()


def cache_key(unit: Unit, weights: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """The cache key of a unit's outputs: its code, its constants, its weights, its inputs. Nothing else.

    Keys are derived, not measured: an input that another unit writes is named by that unit's own
    key. So every key of a run is known before anything is computed or loaded.

    Args:
        unit: The unit, its constants bound.
        weights: Model name -> fingerprint of its weights and precision.
        inputs: Value name -> cache key of the value.
    """
    return key_maker(unit, weights)(*[inputs[name] for name in inputs_of(unit)])


def inputs_of(unit: Unit) -> list[str]:
    """The values whose keys are part of the key of a unit's outputs, in the order of :func:`key_maker`."""
    return sorted(set(unit.reads))


def key_maker(unit: Unit, weights: Mapping[str, str]) -> Callable[..., str]:
    """:func:`cache_key` for many inputs: what they share is written and hashed once.

    What is hashed is one JSON object with sorted keys; its ``inputs`` stand in the middle.

    Returns:
        Keys of the values of :func:`inputs_of`, one after the other -> key of the outputs.
    """
    before = {"constants": dict(sorted(unit.constants.items())), "format": FORMAT}
    weight_marks = {name: weights[name] for name in unit.uses}
    after = {"unit": unit.name, "version": unit.version, "weights": weight_marks}
    labels = [f"{json.dumps(name)}: " for name in inputs_of(unit)]
    start = hashlib.sha256(f'{json.dumps(before, sort_keys=True)[:-1]}, "inputs": {{'.encode())
    end = f"}}, {json.dumps(after, sort_keys=True)[1:]}"

    @lru_cache(maxsize=4096)  # neighbours share their image, or their caption
    def key_of(*values: str) -> str:
        state = start.copy()
        state.update(
            (", ".join(map(str.__add__, labels, map(encode_basestring_ascii, values))) + end).encode()
        )
        return state.hexdigest()

    return key_of


def digest(values: Mapping[str, Tensor]) -> str:
    """A hash over names, types, shapes and bytes of tensors on the CPU."""
    state = hashlib.sha256()
    for name in sorted(values):
        value = values[name].detach().contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        state.update(value.view(-1).view(uint8).numpy().data)
    return state.hexdigest()


class Cache:
    """Write once, read many. A changed caption misses; a changed learning rate does not.

    Whoever reads holds its entries first, and closes the cache in the end: see ``limner.graph.cache``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lease = Lease(root)

    def hold(self, cache_keys: Iterable[str]) -> Held:
        """Keep these entries from being pruned until ``close``, those too that are yet to be written.

        Those that are there count as used now. Where the folder cannot be written to, nothing is held: who
        may not write here may not prune here either.
        """
        keys = sorted(set(cache_keys))
        touching = False
        with suppress(PermissionError):
            self._lease.hold(keys)
            touching = True
        present, unknown = [], []
        for shard, shard_keys in groupby(keys, key=_shard):
            record = json_object(self.root / shard / RECORD) if len(keys) >= MIN_ENTRIES else {}
            for key in shard_keys:
                mark = _mark(self.root, key, touching=touching)
                if mark is not None:
                    present.append(key)
                if mark is not None and record.get(key) != mark:
                    unknown.append(key)
        return Held(frozenset(present), tuple(unknown))

    def close(self) -> None:
        """Let the entries go that are held. May be called again; the cache can still be read."""
        self._lease.release()

    def path(self, cache_key: str) -> Path:
        """Where an entry is or would be."""
        return self.root / cache_key[:2] / f"{cache_key}.safetensors"

    def __contains__(self, cache_key: str) -> bool:
        return self.path(cache_key).exists()

    def write(self, cache_key: str, values: Mapping[str, Tensor], unit: str = "") -> int:
        """Store ``values`` and return the bytes written. Another process may do the same at the same time.

        ``unit`` names what computed them, for the listing of the cache.

        It does not wait for the disk, which took half of the time of filling: what a loss of power tears is
        found when it is read, and computed again.
        """
        flat = {name: value.detach().cpu().contiguous().clone() for name, value in values.items()}
        facts = {"address": cache_key, "digest": digest(flat), "format": FORMAT, "unit": unit}
        data = save(flat, metadata=facts)  # save_file would hide a full disk in an error of its own
        atomic_write(self.path(cache_key), lambda draft: draft.write_bytes(data), sync=False)
        return len(data)

    def read(self, cache_key: str) -> dict[str, Tensor]:
        """The values of the entry ``cache_key``.

        Raises:
            BadCache: The entry is missing, torn, altered, or was written by another format version.
        """
        path = self.path(cache_key)
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                # copied, so that what is checked is what is used, and no mapping outlives this call
                values = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise BadCache(f"Cache entry {path} is gone. Run again to compute it anew.") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise BadCache(f"Cache entry {path} cannot be read ({error}). {AGAIN}") from error
        if facts.get("format") != FORMAT:
            raise BadCache(
                f"Cache entry {path} has format {facts.get('format')!r}, this version reads {FORMAT!r}. "
                "Choose another folder with data.cache, or delete this one."
            )
        if facts.get("address") != cache_key or facts.get("digest") != digest(values):
            raise BadCache(f"Cache entry {path} is not what its name says. {AGAIN}")
        return values

    def damage(self, cache_key: str) -> str:
        """Why an entry that is there cannot be used, without a remedy; "" when it can.

        Raises:
            BadCache: Another version of Limner wrote it: not ours to replace.
        """
        try:
            self.read(cache_key)
        except BadCache as error:
            if self._format(cache_key) not in (None, FORMAT):
                raise
            return str(error).removesuffix(AGAIN).rstrip()
        return ""

    def _format(self, cache_key: str) -> str | None:
        try:
            with safe_open(self.path(cache_key), framework="pt") as file:
                return (file.metadata() or {}).get("format")
        except (SafetensorError, OSError):
            return None

    def discard(self, cache_key: str) -> None:
        """Remove an entry that cannot be read, so that the next run computes it again.

        Raises:
            BadCache: It is a folder, or the system forbids it.
        """
        path = self.path(cache_key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise BadCache(
                f"Cache entry {path} cannot be removed ({error.strerror}). Remove it, or choose another "
                "folder with data.cache."
            ) from error


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


def register(root: Path, run: Path, index: Path) -> None:
    """Put a run on record, so that its entries are listed under its name.

    Args:
        root: The cache.
        run: The run folder.
        index: Its file that lists, under ``addresses``, the cache keys that it reads.

    Where the cache cannot be written to, nothing is recorded: only the listing wants it.
    """
    home = real_path(run)
    name = hashlib.sha256(str(home).encode()).hexdigest()[:32]
    with suppress(PermissionError):
        write_json(root / "runs" / f"{name}.json", {"run": str(home), "index": str(real_path(index))})


def _shard(key: str) -> str:
    """The folder of an entry."""
    return key[:2]


def remember(root: Path, keys: Iterable[str], count: int) -> None:
    """Keep on record that entries are whole: they were read, or written, and lie on the disk.

    A record must outlive no entry that a loss of power tears, so the disk is waited for. Where it cannot be
    waited for, or the folder may not be written to, nothing is recorded, and the next start reads them.

    Args:
        root: The cache.
        keys: Cache keys of the entries.
        count: How many entries the run has: for few, nothing is recorded.
    """
    shards = {shard: [*shard_keys] for shard, shard_keys in groupby(sorted(keys), key=_shard)}
    if count < MIN_ENTRIES or not shards or not hasattr(os, "sync"):
        return
    os.sync()
    for shard, shard_keys in shards.items():
        path = root / shard / RECORD
        previous, sound = json_object(path), set(shard_keys)
        marks = {key: _mark(root, key) for key in sorted({*previous, *sound})}
        # a mark without a fraction is of a file system that keeps whole seconds: it tells nothing
        record = {
            key: mark
            for key, mark in marks.items()
            if mark and mark[1] and (key in sound or previous[key] == mark)
        }
        with suppress(OSError):
            write_text(path, json.dumps(record, separators=(",", ":")))


def _mark(root: Path, key: str, *, touching: bool = False) -> Mark | None:
    """The mark of an entry, None where it is not there. One that is touched counts as used now."""
    path = f"{root}/{key[:2]}/{key}.safetensors"
    try:
        facts = os.stat(path)  # noqa: PTH116  of each of 100,000 entries
    except OSError:
        return None
    fraction = facts.st_mtime_ns % SECOND
    if touching:
        with suppress(OSError):
            now = time.time_ns()
            os.utime(path, ns=(now, now // SECOND * SECOND + fraction))
    return [facts.st_size, fraction]


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where there is none, or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
