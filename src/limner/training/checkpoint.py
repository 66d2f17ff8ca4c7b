"""Checkpoints: the state of a run in one safetensors file that is read whole, or refused with the reason.

The header holds one entry, ``"<format> <digest> <body>"``: ``body`` is the JSON of the facts and of the
skeleton that ``nn.serialize`` makes of the state; ``digest`` is a SHA-256 over the body and over name,
type, shape and bytes of every tensor. What ``load`` returns is therefore what ``save`` was given. Nothing is
unpickled.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limner.errors import BadCheckpoint
from limner.files import atomic_write, require_space
from limner.nn import distributed
from limner.nn.serialize import pack, unpack
from limner.recipe.train import Lora
from limner.run_folder import CHECKPOINT_ENTRY, RunDir

if TYPE_CHECKING:
    from limner.assembly.assemble import Assembled
    from limner.assembly.resolve import Resolved
    from limner.reporter import Reporter
    from limner.training.state import TrainState

FORMAT = 1
"""Raised when a file of this version can no longer be read by the version before it."""
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of ``torch.save`` and ``pickle`` begin."""
REMEDY = "Delete it; a run goes on from the checkpoint before."
THREADS = min(4, os.cpu_count() or 1)
INITIAL_LORA = {"name": "limner.init", "sha256": "limner.init_sha256", "energy": "limner.init_energy"}
"""Of a LoRA that training starts from: key of the run folder's record -> entry of the exported file's
metadata."""
PER_TENSOR = 256
"""Bytes that a tensor's name, type, shape and offsets take in the header, rounded up."""


class ForeignCheckpoint(BadCheckpoint):
    """No damage, which a run survives, but a file that somebody put there: theirs to remove, not ours."""


class StartingLora(Protocol):
    """A LoRA that a training starts from: ``training.initial.InitialLora``."""

    def begin(self, state: "TrainState", reporter: "Reporter") -> None:
        """Put it into the trained factors, and record it in the run folder."""
        ...


StartingLoraReader = Callable[["Resolved", "Assembled", "Reporter"], StartingLora | None]
"""Reads what ``train.init`` names: ``training.initial.initial_lora``. None: it names nothing."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The state of a run after ``step`` steps."""

    path: Path
    step: int
    parts: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True)
class RefusedCheckpoint:
    """A checkpoint that cannot be used, and why."""

    path: Path
    reason: str


def save(path: Path, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Write ``parts`` and ``facts`` to ``path``, atomically, and read them back before they take their place.

    Args:
        path: Usually ``RunDir.checkpoint_path(step)``.
        parts: State by name: whatever ``nn.serialize`` can pack, on any device.
        facts: What is known of the state, as JSON values: ``step`` and measurements.

    Returns:
        The size of the file in bytes.

    Raises:
        DiskFull: There is no room; the file that was there before is untouched.
        BadCheckpoint: What the disk gave back is not what was written.
    """
    packed, skeleton = pack(dict(parts))
    tensors = _on_cpu(packed)
    body = json.dumps({"facts": dict(facts), "skeleton": skeleton})
    require_space(path.parent, _bytes(tensors, body), f"The checkpoint {path.name}")
    note = f"{FORMAT} {_digest(tensors, body)} {body}"

    def write(draft: Path) -> None:
        try:
            save_file(tensors, draft, metadata={CHECKPOINT_ENTRY: note})
        except SafetensorError as error:
            if f"os error {errno.ENOSPC}" in str(error):  # safetensors does not raise OSError
                raise OSError(errno.ENOSPC, str(error)) from error
            raise
        _compare(draft, tensors, note)

    atomic_write(path, write)
    return path.stat().st_size


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parts, facts) as ``save`` was given them, tensors on the CPU in memory of their own.

    Raises:
        BadCheckpoint: The file is missing, torn, altered, pickled, foreign, or of another format version.
    """
    tensors, body = _read(path)
    try:
        note = json.loads(body)
        parts, facts = unpack(tensors, note["skeleton"]), note["facts"]
        if not (isinstance(parts, dict) and isinstance(facts, dict)):
            raise TypeError("it has no parts by name")
    except (ValueError, LookupError, TypeError, BadCheckpoint) as error:
        raise BadCheckpoint(f"{path} holds no state that this Limner can rebuild: {error}") from error
    return parts, facts


def of_first(checkpoint: LoadedCheckpoint | None) -> LoadedCheckpoint | None:
    """The first process's checkpoint, in all of them: sent to those that see another run folder, or none."""
    entries = distributed.gather((checkpoint.step, checkpoint.facts) if checkpoint else None)
    is_common = all(entry == entries[0] for entry in entries)
    return checkpoint if is_common else distributed.from_first(checkpoint)


def loaded(path: Path, step: int) -> LoadedCheckpoint:
    """The checkpoint of a step as the first process reads it, in all of them.

    Raises:
        BadCheckpoint: It cannot be read.
    """
    is_there = distributed.rank() == 0 or path.exists()
    entry = of_first(LoadedCheckpoint(path, step, *load(path)) if is_there else None)
    assert entry  # the first process has read it
    return entry


def newest_whole(run: RunDir) -> tuple[LoadedCheckpoint | None, tuple[RefusedCheckpoint, ...]]:
    """The newest checkpoint that is whole, and every newer one that is damaged, with the reason.

    The caller says the refused ones to the user, then ``RunDir.mark_damaged``s them.

    Raises:
        ForeignCheckpoint: A file before it is pickled, from elsewhere, renamed, or of another format version.
    """
    if strange := run.foreign_checkpoints():
        raise ForeignCheckpoint(
            f"{strange[0]} is no checkpoint of Limner, and stays unopened: it could run code. Remove it; to "
            "train on from a LoRA made elsewhere is not possible."
        )
    refusals: list[RefusedCheckpoint] = []
    for step, path in run.checkpoints():
        try:
            parts, facts = load(path)
            if facts.get("step", step) != step:
                raise ForeignCheckpoint(
                    f"{path} holds the state of step {facts['step']}: the file was renamed. Rename it "
                    "back, or delete it."
                )
        except ForeignCheckpoint:
            raise
        except BadCheckpoint as error:
            refusals.append(RefusedCheckpoint(path, str(error)))
        else:
            return LoadedCheckpoint(path, step, parts, facts), tuple(refusals)
    return None, tuple(refusals)


def whole(path: Path) -> bool:
    """Whether ``load`` would accept the file."""
    try:
        _read(path)
    except BadCheckpoint:
        return False
    return True


def retain(run: RunDir, keep: int, saved: Path | None = None) -> list[Path]:
    """Delete all checkpoints but the newest ``keep`` and the best by validation loss; return those deleted.

    ``saved`` is the file that ``save`` has just verified and that need not be read again.
    """
    return run.prune(keep, run.best(), lambda path: path == saved or whole(path))


def require_room(run: RunDir, need: int, count: int, *, others: int = 0) -> None:
    """Raise ``DiskFull`` unless the disk holds all checkpoints that a run keeps at once.

    Args:
        run: Checkpoints that are there already count as room.
        need: Bytes of all of them.
        count: How many they are.
        others: Bytes that are wanted besides, for LoRAs or a model.
    """
    have = sum(path.stat().st_size for _, path in run.checkpoints())
    purpose = f"Keeping {count} checkpoints{' and what is exported' if others else ''}"
    require_space(run.checkpoints_path, max(0, need - have) + others, purpose)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, copied only where they share memory, which safetensors refuses."""
    ready: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        ready[name] = tensor.clone() if pointer in pointers and tensor.numel() else tensor
        pointers.add(pointer)
    return ready


def _bytes(tensors: Mapping[str, Tensor], body: str) -> int:
    return sum(tensor.nbytes + PER_TENSOR for tensor in tensors.values()) + len(body) + 4096


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The verified tensors and body of a file.

    The tensors are copied out of it first, so that what is checked is what is used, whatever comes after.
    """
    file_tensors, digest, body = _open(path)
    tensors = {name: tensor.clone() for name, tensor in file_tensors.items()}
    if _digest(tensors, body) != digest:
        raise BadCheckpoint(f"{path} is damaged: its contents do not match its checksum. {REMEDY}")
    return tensors, body


def _compare(path: Path, tensors: Mapping[str, Tensor], note: str) -> None:
    """Raise ``BadCheckpoint`` unless the file holds just this: ten times faster than hashing it again."""
    file_tensors, digest, body = _open(path)
    equal = file_tensors.keys() == tensors.keys() and note == f"{FORMAT} {digest} {body}"
    if not (equal and all(_equal(file_tensors[name], tensors[name]) for name in file_tensors)):
        raise BadCheckpoint(
            f"{path} does not hold what was written to it. Check the disk, and save elsewhere."
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_raw(a), _raw(b))


def _open(path: Path) -> tuple[dict[str, Tensor], str, str]:
    """The tensors of a file, mapped and unverified, with the digest and body that its header states."""
    try:
        with path.open("rb") as file:
            if file.read(8).startswith(PICKLES):
                raise ForeignCheckpoint(
                    f"{path} is a pickled file: it could run code, and stays unopened. {REMEDY}"
                )
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {}).get(CHECKPOINT_ENTRY)
            if note is None:
                raise ForeignCheckpoint(f"{path} is a safetensors file and no checkpoint of Limner. {REMEDY}")
            digest, body = _parse(path, note)
            return {name: file.get_tensor(name) for name in file.keys()}, digest, body  # noqa: SIM118
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{path} does not exist.") from error
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read as safetensors ({error}): torn or foreign. {REMEDY}"
        ) from error


def _parse(path: Path, note: str) -> tuple[str, str]:
    version, _, rest = note.partition(" ")
    digest, _, body = rest.partition(" ")
    if not (version.isdecimal() and body):
        raise BadCheckpoint(f"{path} is damaged: its header is incomplete. {REMEDY}")
    if version != str(FORMAT):
        raise ForeignCheckpoint(
            f"{path} has checkpoint format {version[:20]}, and this Limner reads format {FORMAT}. "
            "Go on with the Limner that wrote it, or start a new run folder."
        )
    return digest, body


def _digest(tensors: Mapping[str, Tensor], body: str) -> str:
    """SHA-256 over the body and, by name, each tensor's name, type, shape and the SHA-256 of its bytes."""
    names = sorted(tensors)
    total = hashlib.sha256(body.encode("utf-8", "surrogatepass"))
    share = -(-len(names) // THREADS) or 1
    shares = [names[start : start + share] for start in range(0, len(names), share)]
    with ThreadPoolExecutor(THREADS) as pool:  # hashlib lets go of the GIL
        for lines in pool.map(lambda names: [_line(name, tensors[name]) for name in names], shares):
            total.update("".join(lines).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _line(name: str, tensor: Tensor) -> str:
    inner = hashlib.sha256(_raw(tensor).numpy().data).hexdigest()
    return json.dumps([name, str(tensor.dtype), list(tensor.shape), inner])


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, (bytes,) uint8, not copied."""
    return tensor.reshape(-1).view(torch.uint8)


def initial_lora_record(run: RunDir) -> dict[str, str]:
    """What the exported file says of the LoRA that the run began with; nothing if it began as ever."""
    try:
        record = json.loads(run.init_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadCheckpoint(
            f"{run.init_path} is damaged ({error}). Remove it: it is a record only."
        ) from error
    return {entry: str(record[key]) for key, entry in INITIAL_LORA.items() if key in record}


def difference_text(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What has changed, as recipes say it; the files of a base have no word there."""
    versions = {f"train.{key}": (before.get(key), now[key]) for key in ("optimizer", "method")}
    lora = before.get("lora")
    if isinstance(lora, dict):
        versions |= {f"lora.{key}": (lora.get(key), value) for key, value in now["lora"].items()}
    pairs = [f"{key} was {old}, is {new}" for key, (old, new) in versions.items() if old != new]
    return f" ({'; '.join(pairs)})" if pairs else ""


def completed(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a checkpoint with what a recipe could not say yet when it was written, as it was then."""
    lora = facts.get("lora")
    defaults = Lora().model_dump(mode="json")
    return {
        "method": "lora",
        "inversion": [],
        "adapter": "",
        **facts,
        "lora": {**defaults, **lora} if isinstance(lora, dict) else lora,
    }
