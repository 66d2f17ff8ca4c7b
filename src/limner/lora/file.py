"""LoRA files: written whole and checked, read with distrust."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limner.errors import BadLora
from limner.files import atomic_write, require_space
from limner.lora.adapter import Adapter, Factors
from limner.lora.formats import from_diffusers, to_diffusers
from limner.lora.metadata import HASH
from limner.lora.safety import LARGEST_METADATA, header

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds."""

    components: dict[str, dict[str, Factors]]
    """"transformer", "text_encoder" .. -> module -> factors, float32."""
    metadata: dict[str, str]
    """As found; text from strangers, so escape it wherever it is shown."""
    notes: tuple[str, ...] = ()
    """What is strange and not wrong, one sentence each."""


def write(
    path: Path,
    components: Mapping[str, Adapter],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a LoRA in diffusers' form. The file appears whole, after it was read back and found equal.

    Adds ``modelspec.hash_sha256``: "0x" and the SHA-256 of the file's tensor bytes.

    Args:
        path: Ends in .safetensors.
        components: At least one module in all.
        metadata: From ``limner.lora.metadata``; at most 1 MB.
        dtype: float32 keeps every bit, float16 half the bytes and 11 bits, bfloat16 8 bits and any size.

    Raises:
        BadLora: A number is not finite or does not fit ``dtype``; names clash; the disk returns other bytes.
        DiskFull: There is no room; an older file stays as it was.
    """
    if path.suffix != ".safetensors":
        raise BadLora(f"{path.name} does not end in .safetensors, so nobody would read it. Rename it.")
    if dtype not in DTYPES:
        raise BadLora(f"A LoRA cannot be written as {dtype}. Choose {', '.join(DTYPES.values())}.")
    flat = {name: _rounded(name, tensor, dtype) for name, tensor in sorted(to_diffusers(components).items())}
    if not flat:
        raise BadLora(
            "There is no module to write: nothing was trained. Choose lora.targets that fit the base."
        )
    described = dict(metadata) | {HASH: tensor_hash(flat)}
    size = sum(len(key) + len(value) for key, value in described.items())
    if size > LARGEST_METADATA:
        raise BadLora(
            f"The metadata has {size} characters, over {LARGEST_METADATA}. Shorten the description."
        )
    require_space(path.parent, sum(tensor.nbytes for tensor in flat.values()) + size, f"{path.name}")

    def put(draft: Path) -> None:
        draft.write_bytes(save(flat, described))  # save_file would hide a full disk in an error of its own
        _same(draft, flat, described)

    atomic_write(path, put)


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.isfinite().all():
        raise BadLora(f"{name} holds numbers that are not finite. Export an earlier checkpoint.")
    rounded = tensor.detach().cpu().to(dtype).contiguous()
    if not rounded.isfinite().all():
        largest = tensor.abs().max().item()
        raise BadLora(
            f"{name} holds {largest:.3g}, too large for {DTYPES[dtype]}. Write bfloat16 or float32."
        )
    return rounded


def tensor_hash(flat: Mapping[str, Tensor]) -> str:
    """ModelSpec's hash: "0x" and the SHA-256 of the tensors' bytes, ordered by name as in a file."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        digest.update(flat[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return f"0x{digest.hexdigest()}"


def _same(draft: Path, flat: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    found, described = _load(draft)
    equal = found.keys() == flat.keys() and all(
        found[name].dtype == flat[name].dtype and torch.equal(found[name], flat[name]) for name in flat
    )
    if not equal or described != metadata or _bytes_hash(draft) != metadata[HASH]:
        raise BadLora("The LoRA read back is not the one that was written. Check the disk.")
    from_diffusers(found)


def _bytes_hash(path: Path) -> str:
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


def read(path: Path) -> LoraFile:
    """Read a LoRA in diffusers' form.

    Raises:
        BadLora: The file is not safe, not whole, not finite, of another form, or its hash is not that of its
            tensors; the message names which.
    """
    flat, metadata = _load(path)
    for name, tensor in flat.items():
        if not tensor.isfinite().all():
            raise BadLora(f"{path} is not a safe LoRA file: {name} holds NaN or infinity. Export it again.")
    if "lora_adapter_metadata" in metadata:
        raise BadLora(
            f"{path} keeps its strength in lora_adapter_metadata, which most tools do not read. "
            "Load it with diffusers, multiply the scales into lora_B, and save it without that entry."
        )
    if metadata.get(HASH, "0x").removeprefix("0x") not in ("", _bytes_hash(path).removeprefix("0x")):
        raise BadLora(
            f"{path} has other tensors than its {HASH} says: it was altered or damaged. Get it again."
        )
    components = from_diffusers(flat)
    return LoraFile(components, metadata, _notes(components))


def _notes(components: Mapping[str, Adapter]) -> tuple[str, ...]:
    wide = [
        f"{component}.{module} has rank {factors.rank}, more than its weight can have."
        for component, adapter in components.items()
        for module, factors in adapter.items()
        if factors.rank > min(factors.down.flatten(1).shape[1], factors.up.shape[0])
    ]
    return tuple(wide)
