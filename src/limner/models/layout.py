"""A base written as a folder in diffusers layout: our weights in shards, other parts from where they are."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from limner.files import atomic_write, real_path, write_json
from limner.models.source import WEIGHTS, Source

SHARD = 2 * 10**9
"""Bytes of a file of weights; so much is copied in memory at once."""


def lend(donor: Source, part: str, folder: Path, *, allow_links: bool) -> None:
    """Have a part as a donor has it: copied; ``allow_links`` where nobody will write in ``folder``."""
    folder.mkdir(parents=True)
    part_folder = donor.root / part
    for path in {part_folder / "config.json", *part_folder.glob("*.index.json"), *donor.weights(part)}:
        if path.is_file() and not (allow_links and _link(path, folder / path.name)):
            shutil.copyfile(path, folder / path.name)


def _link(path: Path, link_path: Path) -> bool:
    """Whether it could be done: not to another disk, or one without links."""
    try:
        os.link(real_path(path), link_path)
    except OSError:
        return False
    return True


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    facts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write safetensors files of at most :data:`SHARD` bytes, and their index if there are several.

    Args:
        folder: Named as the part, which decides what the files are called.
        tensors: By their names in the files, on any device.
        dtypes: Of those that are written in another precision than they have.
        facts: What the header of each file says besides its format.

    Returns:
        The files of weights.

    Raises:
        DiskFull: There is no room.
    """
    stem = next((stem for stem, parts in WEIGHTS if folder.name in parts), "model")
    kinds = {name: (dtypes or {}).get(name, tensor.dtype) for name, tensor in tensors.items()}
    sizes = {name: tensor.numel() * kinds[name].itemsize for name, tensor in tensors.items()}
    shards: list[list[str]] = [[]]
    size = 0
    for name in tensors:
        if size and size + sizes[name] > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += sizes[name]
    files = [f"{stem}.safetensors"]
    if len(shards) > 1:
        files = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        owner = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": owner}
        write_json(folder / f"{stem}.safetensors.index.json", index)
    header = {"format": "pt", **(facts or {})}
    for file, names in zip(files, shards, strict=True):
        copies = {name: _alone(tensors[name], kinds[name]) for name in names}
        atomic_write(folder / file, lambda draft, shard=copies: save_file(shard, draft, header))
    return [folder / file for file in files]


def _alone(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the CPU, which shares no memory: safetensors refuses that."""
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()
