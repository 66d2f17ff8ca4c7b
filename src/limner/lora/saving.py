"""LoRA files written for a tool and read back by that tool's rules before they count as written."""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

from limner.errors import BadLora
from limner.files import atomic_write, require_space
from limner.lora import diffusers_loader, file
from limner.lora.adapters import WeightDelta, kind
from limner.lora.file import require_equal
from limner.lora.metadata import header
from limner.lora.tools import DIFFUSERS, Tool, decode_as
from limner.models.registry import family_keys

Components = Mapping[str, Mapping[str, WeightDelta]]
"""Component -> module -> change."""


def save(
    out: Path,
    components: Components,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    tool: Tool = DIFFUSERS,
    family: str | None = None,
) -> float:
    """Write a file for a tool and read it back by that tool's rules; the largest error of a module.

    Raises:
        BadLora: The tool would read other modules or other numbers; nothing is left at ``out``.
    """
    draft = out.with_name(f".{out.stem}.draft.safetensors")
    try:
        file.write(draft, components, metadata, dtype, tool=tool, family=family)
        error = reread(draft, components, tool, family, dtype)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return error


def reread(
    path: Path, components: Components, tool: Tool, family: str | None, dtype: torch.dtype = torch.float32
) -> float:
    """Read a file by a tool's own rules and compare, key by key; the largest error of a module.

    For diffusers its own reader is called; for the others the rules are tables: ``limner.lora.tools``.

    Raises:
        BadLora: The tool passes over a part, or reads other numbers.
    """
    if family is None:
        return require_equal(path.name, tool.name, file.read(path).components, components, dtype)
    names = family_keys(family)
    all_lora = all(kind(change) == "LoRA" for adapter in components.values() for change in adapter.values())
    if tool is DIFFUSERS and all_lora:
        return diffusers_loader.verify(path, components, names.pipelines[0]).error
    flat = file.tensors(path)
    if tool is DIFFUSERS and any(".lokr_" in key for key in flat):
        diffusers_loader.require_lokr(path, flat)
    view = decode_as(flat, names.family, tool)
    if skips := view.skipped_modules:
        raise BadLora(f"{path.name}: {tool.name} would pass over {len(skips)} modules, first {skips[0]}.")
    return require_equal(path.name, tool.name, view.components, components, dtype)


def copy_with_metadata(source: Path, out: Path, metadata: Mapping[str, str]) -> None:
    """Write a file whose tensors are those of another, byte by byte, under other metadata; read it back.

    Raises:
        BadLora: The source is not safe, or the disk gave back other bytes.
        DiskFull: There is no room.
    """
    head = header(source)
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    for name, (dtype, shape, start, end) in head.tensors.items():
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # readers map the tensors, which want whole words
    require_space(out.parent, source.stat().st_size + len(text), out.name)

    def write_draft(draft: Path) -> None:
        with source.open("rb") as tensors, draft.open("wb") as file_out:
            file_out.write(struct.pack("<Q", len(text)) + text)
            tensors.seek(head.start)
            shutil.copyfileobj(tensors, file_out)
        copy = header(draft)
        same_head = copy.metadata == dict(metadata) and copy.tensors == head.tensors
        if not same_head or file.bytes_hash(draft) != file.bytes_hash(source):
            raise BadLora(f"{out.name} is not what was written. Check the disk.")

    atomic_write(out, write_draft)
