"""LoRA files: found by name here or on the hub, written whole and checked, read with distrust, compared."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limner.errors import BadBase, BadLora, UnknownBase
from limner.files import atomic_write, require_space, user_path
from limner.lora import peft_config
from limner.lora.adapters import Dora, WeightDelta, kind
from limner.lora.factors import Factors
from limner.lora.formats import canonical
from limner.lora.formats import read as parse
from limner.lora.metadata import HASH, LARGEST_METADATA, header
from limner.lora.peft_config import WEIGHTS_FILE
from limner.lora.tools import DIFFUSERS, Tool, encode_for
from limner.models.source import fetching

MOST_RANK = 4
"""Times the longer side of a weight: beyond it a rank is no rank but an attack on memory."""

STALE_HASH = f"Its {HASH} is of other tensors: another program has changed the file since, or it is damaged."

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds."""

    components: dict[str, dict[str, WeightDelta]]
    """"transformer", "text_encoder" .. -> module in diffusers' names -> change, float32, scale baked in."""
    metadata: dict[str, str]
    """As found; text from strangers, so escape it wherever it is shown."""
    notes: tuple[str, ...] = ()
    """What is strange and not wrong, one sentence each."""
    family: str | None = None
    """By its names; None when they fit no known family, or several."""
    form: str = "diffusers"
    """How its modules are spelled."""
    repairs: tuple[str, ...] = ()
    """What other readers take wrongly and was put right here, one sentence each."""
    dtype: torch.dtype = torch.float32
    """Of its tensors."""
    unread: tuple[str, ...] = ()
    """Tensors beside the factors that were not read, one sentence for each kind."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that are in it, sorted: LoRA, LoHa, LoKr, DoRA, DoRA of LoHa, DoRA of LoKr."""
        return tuple(
            sorted({kind(change) for adapter in self.components.values() for change in adapter.values()})
        )


def write(
    path: Path,
    components: Mapping[str, Mapping[str, WeightDelta]],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
    *,
    tool: Tool = DIFFUSERS,
    family: str | None = None,
    base: str | None = None,
) -> None:
    """Write a LoRA as ``tool`` reads it. The file appears whole, after it was read back and found equal.

    Adds ``modelspec.hash_sha256``: "0x" and the SHA-256 of the file's tensor bytes.

    Args:
        path: Ends in .safetensors.
        components: At least one module in all.
        metadata: From ``limner.lora.metadata``; at most 1 MB.
        dtype: float32 keeps every bit, float16 half the bytes and 11 bits, bfloat16 8 bits and any size.
        tool: Whose names and kinds to write.
        family: Whose modules they are; only diffusers' own form can do without.
        base: Family or pipeline of the base that it is for, which spares looking for the family by the names
            when the file is read back. Left out: ``family``, or what the names tell.

    Raises:
        BadLora: A number is not finite or does not fit ``dtype``; names clash; ``tool`` could not read a
            part; the disk returns other bytes.
        DiskFull: There is no room; an older file stays as it was.
    """
    if path.suffix != ".safetensors":
        raise BadLora(f"{path.name} does not end in .safetensors, so nobody would read it. Rename it.")
    if dtype not in DTYPES:
        raise BadLora(f"A LoRA cannot be written as {dtype}. Choose {', '.join(DTYPES.values())}.")
    flat = {
        name: _rounded(name, tensor, dtype)
        for name, tensor in sorted(encode_for(components, family, tool).items())
    }
    if not flat:
        raise BadLora(
            "There is no module to write: nothing was trained. Choose lora.targets that fit the base."
        )
    entries = dict(metadata) | {HASH: tensor_hash(flat)}
    size = sum(len(key) + len(value) for key, value in entries.items())
    if size > LARGEST_METADATA:
        raise BadLora(
            f"The metadata has {size} characters, over {LARGEST_METADATA}. Shorten the description."
        )
    require_space(path.parent, sum(tensor.nbytes for tensor in flat.values()) + size, f"{path.name}")

    def write_draft(draft: Path) -> None:
        draft.write_bytes(save(flat, entries))  # save_file would hide a full disk in an error of its own
        _same(draft, flat, entries, base or family)

    atomic_write(path, write_draft)


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.isfinite().all():
        raise BadLora(f"{name} holds numbers that are not finite. Export an earlier checkpoint.")
    if name.endswith(".alpha"):
        dtype = torch.float32  # a rank that bfloat16 does not hold would change the strength
    result = tensor.detach().cpu().to(dtype).contiguous()
    if not result.isfinite().all():
        largest = tensor.abs().max().item()
        raise BadLora(
            f"{name} holds {largest:.3g}, too large for {DTYPES[dtype]}. Write bfloat16 or float32."
        )
    return result


def tensor_hash(flat: Mapping[str, Tensor]) -> str:
    """ModelSpec's hash: "0x" and the SHA-256 of the tensors' bytes, in a file's order: wide ones first."""
    digest = hashlib.sha256()
    for name in sorted(flat, key=lambda name: (-flat[name].itemsize, name)):
        digest.update(flat[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return f"0x{digest.hexdigest()}"


def _same(draft: Path, flat: Mapping[str, Tensor], metadata: Mapping[str, str], family: str | None) -> None:
    tensors_read, stored_metadata = _load(draft)
    equal = tensors_read.keys() == flat.keys() and all(
        tensors_read[name].dtype == flat[name].dtype and torch.equal(tensors_read[name], flat[name])
        for name in flat
    )
    if not equal or stored_metadata != metadata or bytes_hash(draft) != metadata[HASH]:
        raise BadLora("The LoRA read back is not the one that was written. Check the disk.")
    parse(tensors_read, stored_metadata, family)


def bytes_hash(path: Path) -> str:
    """The same hash of the bytes of a file, damaged or not."""
    with path.open("rb") as file:
        file.seek(header(path).start)
        return f"0x{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    metadata = header(path).metadata
    try:
        return load_file(path), metadata
    except (SafetensorError, OSError) as error:
        raise BadLora(
            f"{path} is not a safe LoRA file: {error}. Get it again, or export it again."
        ) from error


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file as they stand there, checked to be safe and finite.

    Raises:
        BadLora: They are not.
    """
    flat, _ = _load(path)
    for name, tensor in flat.items():
        if not tensor.float().isfinite().all():
            raise BadLora(f"{path} is not a safe LoRA file: {name} holds NaN or infinity. Export it again.")
    return flat


def weights_file(path: Path) -> Path:
    """The file itself, or the one in a folder of peft's.

    Raises:
        BadLora: It is a pipe or a device, which would be waited for.
    """
    inner = path / WEIGHTS_FILE
    if inner.is_file():
        return inner
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadLora(f"{path} is no file but a pipe or a device. Name the LoRA's file.")
    return path


def read(path: Path, family: str | None = None) -> LoraFile:
    """Read a LoRA of any spelling and kind: diffusers, kohya, ComfyUI, DiffSynth; LoRA, DoRA, LoHa, LoKr.

    Args:
        path: The file, or peft's folder of adapter_model.safetensors and adapter_config.json.
        family: Where the names alone do not tell.

    Raises:
        BadLora: The file is not safe, not whole, not finite or not understood; the message names which.
    """
    path = weights_file(path)
    flat, metadata = tensors(path), header(path).metadata
    stale = metadata.get(HASH, "0x").removeprefix("0x") not in ("", bytes_hash(path).removeprefix("0x"))
    try:
        content = parse(flat, metadata, family, peft_config.in_folder(path))
        notes = (*content.notes, *(STALE_HASH,) * stale, *_notes(content.components))
    except BadLora as error:
        raise BadLora(f"{path}: {error}") from error
    return LoraFile(
        content.components,
        metadata,
        notes,
        content.family,
        content.form,
        content.repairs,
        _dtype(flat),
        content.unread,
    )


def _dtype(flat: Mapping[str, Tensor]) -> torch.dtype:
    """That of the factors; float16 holds every number of fp8, in which nobody writes."""
    dtype = next((tensor.dtype for tensor in flat.values() if tensor.dim() > 1), torch.float32)
    return dtype if dtype in DTYPES else torch.float16


def _notes(components: Mapping[str, Mapping[str, WeightDelta]]) -> tuple[str, ...]:
    notes = []
    for component, adapter in components.items():
        for module, change in adapter.items():
            if change.rank > MOST_RANK * max(change.shape) and kind(change) in ("LoRA", "DoRA"):
                raise BadLora(
                    f"{component}.{module} has rank {change.rank} for a weight of {change.shape[0]} x "
                    f"{change.shape[1]}: absurd. Get it again, or export it again."
                )
            if change.rank > min(change.shape) and kind(change) in ("LoRA", "DoRA"):
                notes.append(f"{component}.{module} has rank {change.rank}, more than its weight can have.")
    return tuple(notes)


TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest |dW' X - dW X| / |dW X| that rounding to the file's dtype explains: two factors, two units each."""

PROBES = 8
"""Random vectors: with one alone, a product near zero by chance would look like an error."""

Components = Mapping[str, Mapping[str, WeightDelta]]


def require_equal(
    source: str, reader: str, actual: Components, expected: Components, dtype: torch.dtype
) -> float:
    """The largest relative error of a module's product with a random vector.

    Args:
        source: The file, for the message.
        reader: Who read it, for the message.
        actual: What was read.
        expected: What was to be in it.
        dtype: Of the file's tensors; decides how much rounding is forgiven.

    Raises:
        BadLora: The sets of modules differ, or a product is further off than rounding explains.
    """
    actual_deltas, expected_deltas = _by_name(actual), _by_name(expected)
    if differences := _effective(actual_deltas, expected_deltas) ^ _effective(expected_deltas, actual_deltas):
        component, module = sorted(differences)[0]
        raise BadLora(
            f"{source}: {reader} reads {len(differences)} modules otherwise, the first is "
            f"{component}.{module}. Export again; if it stays so, report it with your version of {reader}."
        )
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for (component, module), change in expected_deltas.items():
        if (component, module) not in actual_deltas:
            continue
        error = difference(actual_deltas[component, module], change, draw)
        if not error <= TOLERANCE[dtype] * _factors(change):
            raise BadLora(
                f"{source}: {component}.{module} is {error:.1%} off when read as {dtype}. Write float32."
            )
        worst = max(worst, error)
    return worst


def _by_name(components: Components) -> dict[tuple[str, str], WeightDelta]:
    return {
        (c, canonical(c, m)): change for c, adapter in components.items() for m, change in adapter.items()
    }


def _effective(
    deltas: Mapping[tuple[str, str], WeightDelta], reference: Mapping[tuple[str, str], WeightDelta]
) -> set[tuple[str, str]]:
    """Those that are in the others too, or change something: a zero may be lost in a fused weight."""
    return {
        name
        for name, change in deltas.items()
        if name in reference or not isinstance(change, Factors) or bool(change.up.any())
    }


def _factors(change: WeightDelta) -> int:
    """How many times as much rounding as a pair of factors: a LoHa multiplies two pairs."""
    return 1 if isinstance(change, Factors) else 2


def difference(actual: WeightDelta, expected: WeightDelta, draw: torch.Generator) -> float:
    """|dW' X - dW X| / |dW X| for random columns X; infinite when shapes or kinds differ."""
    if actual.shape != expected.shape or isinstance(actual, Dora) != isinstance(expected, Dora):
        return float("inf")
    if isinstance(actual, Dora) and isinstance(expected, Dora):
        if actual.axis != expected.axis:
            return float("inf")
        gap = (actual.magnitude - expected.magnitude).norm() / expected.magnitude.norm()
        return max(difference(actual.factors, expected.factors, draw), gap.item())
    assert not isinstance(actual, Dora) and not isinstance(expected, Dora)
    probe = torch.randn(expected.shape[1], PROBES, generator=draw, dtype=torch.float64)
    exact, result = expected.times(probe), actual.times(probe)
    size, gap = exact.norm().item(), (result - exact).norm().item()
    return gap / size if size else float(gap > 0)


PREFERRED = "pytorch_lora_weights.safetensors"
"""What diffusers' own training scripts call the file."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
HUB_FILE = re.compile(rf"({HUB_ID.pattern})/([\w.\-/]+\.safetensors)")
"""One file of several: the hub id, and its path there."""


def find(name: str, subject: str = "LoRA", preferred: str = PREFERRED) -> Path:
    """The file that a name means: a file, a folder, or a hub id, whose file is fetched.

    Args:
        name: Its path, or owner/name, or owner/name/file.safetensors.
        subject: What it is, for messages.
        preferred: Of several files on the hub, the one to take.

    Raises:
        BadLora: It is neither here nor on the hub, or the hub has several files of that name.
    """
    path = user_path(name)
    if path.exists():
        return path
    if on_hub := HUB_FILE.fullmatch(name):
        name, preferred = on_hub.groups()
    elif not HUB_ID.fullmatch(name) or name.endswith(".safetensors"):
        raise BadLora(f"There is no {name}. Name the {subject}'s file, or a hub id: owner/name.")
    try:
        return _from_hub(name, preferred, named=bool(on_hub))
    except (BadBase, UnknownBase) as error:
        raise BadLora(str(error)) from error


def _from_hub(hub_id: str, preferred: str, *, named: bool = False) -> Path:
    """The file of a hub id; one that is ``named`` must be there."""
    from huggingface_hub import hf_hub_download

    command = f"`hf download {hub_id}{f' {preferred}' if named else ''}`"
    with fetching(
        hub_id,
        gated=f"{hub_id} is gated: accept its licence on the hub, `hf auth login`, then {command}.",
        offline_text=f"{hub_id} is no file here, and the hub cannot be reached. With network: {command}, "
        "then name the file.",
    ):
        names = [name for name in _names_on_hub(hub_id) if name.endswith(".safetensors")]
        if preferred in names:
            names = [preferred]
        elif named:
            raise BadLora(f"{hub_id} has no {preferred}. It has: {', '.join(names[:3]) or 'none'}.")
        if len(names) != 1:
            raise BadLora(
                f"{hub_id} has {len(names)} safetensors files ({', '.join(names[:3]) or 'none'}). Fetch one "
                f"with `hf download {hub_id} FILE`, and name the file."
            )
        return Path(hf_hub_download(hub_id, names[0]))


def _names_on_hub(hub_id: str) -> list[str]:
    """The files of a repository as the hub has them, or, where it cannot be reached, as they were fetched."""
    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        # not list_repo_files, which tries for half a minute and says so line by line
        return [file.rfilename for file in HfApi().model_info(hub_id).siblings or ()]
    except errors.RepositoryNotFoundError:  # a gated one among them
        raise
    except (errors.HTTPError, OSError) as unreachable:
        try:
            folder = Path(snapshot_download(hub_id, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            raise unreachable from None
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
