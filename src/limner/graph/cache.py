"""A store of tensors under the hash of everything they were made from."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from limner.errors import BadCache
from limner.files import atomic_write
from limner.graph.leases import Lease
from limner.graph.unit import Unit

FORMAT = "1"
AGAIN = "Delete it and run again."
"""What is to be done about an entry that is damaged."""


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
    parts = {
        "format": FORMAT,
        "unit": unit.name,
        "version": unit.version,
        "constants": dict(sorted(unit.constants.items())),
        "weights": {name: weights[name] for name in unit.uses},
        "inputs": {name: inputs[name] for name in unit.reads},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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

    Whoever reads holds its entries first, and closes the cache in the end: see ``limner.graph.leases``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lease = Lease(root)

    def hold(self, cache_keys: Iterable[str]) -> None:
        """Keep these entries from being pruned until ``close``, those too that are yet to be written.

        Those that are there count as used now. Call it before looking which are there. Where the folder
        cannot be written to, nothing is held: who may not write here may not prune here either.
        """
        keys = list(cache_keys)
        with suppress(PermissionError):
            self._lease.hold(keys)
            for key in keys:
                with suppress(FileNotFoundError):
                    os.utime(self.path(key))

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
