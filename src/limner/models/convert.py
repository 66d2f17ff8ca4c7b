"""A base written as a folder in diffusers layout, and a base in one file made such a folder, once.

Our weights lie there in shards, other parts come from where they are. Everything else reads folders. Names
are turned by diffusers' ``loaders/single_file_utils.py`` (version 0.42), but for FLUX.1's transformer,
which it knows at one width only: those are in ``limner.models.flux.keys``. No number is changed: tensors keep
their bits, and fp8 becomes bf16, which holds each of its values.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from limner.errors import BadBase, first_line
from limner.files import atomic_folder, atomic_write, real_path, require_space, user_cache, write_json
from limner.imports import hush
from limner.models.facts import FilePart
from limner.models.family import Family
from limner.models.key_map import KeyStyle
from limner.models.loading import LOAD_ERRORS, skeleton
from limner.models.registry import family_of
from limner.models.single_file import Single, look
from limner.models.source import WEIGHTS, Source, content, locate

SHARD = 2 * 10**9
"""Bytes of a file of weights; so much is copied in memory at once."""


def lend(donor: Source, part: str, folder: Path, *, allow_links: bool) -> None:
    """Have a part as a donor has it: copied; ``allow_links`` where nobody will write in ``folder``."""
    folder.mkdir(parents=True)
    part_folder = donor.folder(part)
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


VERSION = "1"
"""Of the folders that are made; a change makes them anew."""

UNUSED_SUFFIXES = ("position_ids", "logit_scale", "text_projection.weight")
"""Endings of tensors that a part may have in the file and does not compute with."""
TIED_SUFFIXES = ("encoder.embed_tokens.weight",)
"""Second names of tensors."""
NUMBER = re.compile(r"\.\d+$")
"""Of a module in a list."""


def opened(
    path: Path,
    parts: str,
    *,
    folders: Mapping[str, Path],
    tell: Callable[[str], None] = lambda line: None,
) -> Source:
    """The folder of a base in one file; made on the first call, in the user's cache, named by its content.

    Args:
        path: The .safetensors file.
        parts: Base that lends configs, tokenizers, and what else the file lacks; "" for the family's own.
        folders: Bases that come with the package, name -> folder.
        tell: Hears of downloads and of what is made.

    Raises:
        BadBase: The file is a pickle, torn, or of another kind; what it lacks is not there; shapes differ.
        DiskFull: There is no room for the folder.
    """
    file = look(path)
    family = family_of(file.pipeline)
    donor = _donor(file, family, parts, folders, tell)
    home = user_cache("bases") / f"{path.stem[:60]}-{_content_key(file, family, donor)}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f".{home.name}.lock")):
        if not home.is_dir():
            size = 2 * path.stat().st_size  # shards, and what is copied because it cannot be linked
            require_space(home.parent, size, f"{home}, the folder of {file.name},")
            tell(f"Turning {file.name} into a folder in diffusers layout, once: {home}.")
            _make(file, family, donor, home)
    return replace(locate(str(home), folders={}), name=file.name)


def _donor(
    file: Single,
    family: Family,
    parts: str,
    folders: Mapping[str, Path],
    tell: Callable[[str], None],
) -> Source:
    lacking = ", ".join(part for part in family.parts if part not in file.parts)
    try:
        donor = locate(parts or file.donor, folders=folders, tell=tell, skip_weights=tuple(file.parts))
        pipeline = donor.index.get("_class_name")
        for part in family.parts if pipeline == file.pipeline else ():
            donor.config(part) if part in file.parts else donor.weights(part)
    except BadBase as error:
        raise BadBase(
            f"{file.name} has no configs and no {lacking}; they come from {parts or file.donor}. {error} "
            'Or name a folder in diffusers layout that has them: parts = "./folder".'
        ) from error
    if pipeline != file.pipeline:
        raise BadBase(
            f"{donor.name} is a {pipeline}, and {file.name} is of {family.name}: name such a base, for "
            f"instance {file.donor}."
        )
    return donor


def _content_key(file: Single, family: Family, donor: Source) -> str:
    """Hash of everything that decides what is in the folder."""
    facts = [VERSION, content(file.path), repr(file.sampler), repr(donor.index), repr(donor.facts)]
    facts += [repr(donor.config("scheduler"))]
    for part in family.parts:
        facts.append(repr(donor.config(part)) if part in file.parts else donor.fingerprint(part, ""))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _make(file: Single, family: Family, donor: Source, home: Path) -> None:
    hush()
    with atomic_folder(home) as draft:
        donor.write_index(draft, donor.index)
        if donor.facts:
            write_json(draft / "limner.json", donor.facts)
        scheduler = {**donor.config("scheduler"), **file.sampler}
        write_json(draft / "scheduler" / "scheduler_config.json", scheduler)
        for part in family.parts:
            if part in file.parts:
                write(draft / part, _weights(file, family, donor, draft, part))
            else:
                lend(donor, part, draft / part, allow_links=True)


def _weights(file: Single, family: Family, donor: Source, draft: Path, part: str) -> dict[str, Tensor]:
    """A part's tensors in diffusers' names, held against its config."""
    config = donor.config(part)
    config = {**config, **file.config.get(part, {})}
    write_json(draft / part / "config.json", config)
    model = skeleton(family, Source(draft, donor.name), part, dtype=torch.float32)
    shapes = {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in TIED_SUFFIXES
    }
    prefix = file.parts[part]
    with safe_open(file.path, "pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys() if name.startswith(prefix)}  # noqa: SIM118
    weights = _named(file, part, tensors, config, model, set(shapes))
    if "text_model.embeddings.token_embedding.weight" not in shapes:  # transformers 5 took the level away
        weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    for name, shape in shapes.items():
        have = tuple(weights[name].shape) if name in weights else None
        if have != shape:
            raise BadBase(
                f"{file.name}: {part}'s {name} is {have or 'missing'}, and {shape} by {donor.name}'s "
                "config: a variant (inpainting, another size), or torn. Name a base of its shape: "
                'parts = "./folder".'
            )
    if extra := [
        name
        for name in weights
        if name not in shapes and not name.endswith((*UNUSED_SUFFIXES, *TIED_SUFFIXES))
    ]:
        raise BadBase(
            f"{file.name}: {part} has {len(extra)} tensors more than the config of {donor.name} knows, first "
            f'{extra[0]}. Name a base of its shape: parts = "./folder".'
        )
    return {name: _plain(file, name, weights[name]) for name in shapes}


def _named(
    file: Single,
    part: str,
    tensors: dict[str, Tensor],
    config: Mapping[str, Any],
    model: Any,
    names: set[str],
) -> dict[str, Tensor]:
    """The authors' tensors of a part in diffusers' names; those that nobody knows keep their own."""
    from diffusers.loaders import single_file_utils as theirs

    layout, prefix = file.layout.parts[part], file.parts[part]
    if layout.names in ("ldm-unet", "ldm-vae"):
        unet = layout.names == "ldm-unet"
        turn = theirs.convert_ldm_unet_checkpoint if unet else theirs.convert_ldm_vae_checkpoint
        try:
            renamed_tensors = {
                name: tensor for name, tensor in turn(tensors, dict(config)).items() if tensor is not None
            }
        except LOAD_ERRORS as error:
            raise BadBase(f"{file.name}: {part} is none that is known: {first_line(error)}.") from error
        used_pointers = {tensor.data_ptr() for tensor in renamed_tensors.values()}
        return renamed_tensors | {
            name: tensor for name, tensor in tensors.items() if tensor.data_ptr() not in used_pointers
        }
    if layout.names == "open-clip":
        return theirs.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if layout.names == "key-map":
        return by_key_map(layout, bare, names)
    old = "embeddings.token_embedding.weight" in bare  # before transformers 4.0 there was no level above
    return {f"text_model.{name}": tensor for name, tensor in bare.items()} if old else bare


def by_key_map(layout: FilePart, native: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """The authors' tensors of a part -> diffusers' names, at any width and depth.

    Args:
        layout: The part, with its key map.
        native: Tensors in the authors' names, without a prefix. Those that no wanted name reads stay.
        names: diffusers' names.
    """
    assert layout.key_map is not None
    renamed_tensors, read = {}, set()
    for name in names:
        module, _, leaf = name.rpartition(".")
        match = layout.key_map.find(module, KeyStyle("", "diffusers"))
        if match is None:
            continue
        leaf = layout.leaves.get(NUMBER.sub("", module).rpartition(".")[2], leaf)
        source = f"{layout.key_map.name_of(match, 'native')}.{leaf}"
        if source not in native:
            continue
        read.add(source)
        shares, whole = match.row.shares, native[source]
        unit = whole.shape[0] // sum(shares)
        rows = whole.split([unit * share for share in shares])[match.member or 0]
        renamed_tensors[name] = torch.cat(rows.chunk(2)[::-1]) if match.row.halves_swapped else rows
    return renamed_tensors | {name: tensor for name, tensor in native.items() if name not in read}


def _plain(file: Single, name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = tensor.to(torch.bfloat16)
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise BadBase(f"{file.name}: {name} holds no numbers that can be computed with. Get the file again.")
    return tensor
