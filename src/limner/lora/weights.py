"""Checkpoints of bases, read tensor by tensor: in diffusers' names or the authors', one file or a folder."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.errors import BadBase
from limner.lora.formats import locate
from limner.lora.key_map import KeyMatch, KeyStyle
from limner.lora.tables import FAMILIES, FamilyKeys, family_keys

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
AUTHORS = tuple(KeyStyle(prefix, naming) for naming in ("diffusers", "native") for prefix in PREFIXES)
ENCODERS = {
    "text_encoder": (KeyStyle("", "diffusers"),),
    "text_encoder_2": (KeyStyle("", "diffusers"),),
    "text_encoder_3": (KeyStyle("", "diffusers"),),
}


@dataclass(frozen=True)
class BaseWeight:
    """One weight of a checkpoint, and where it belongs."""

    file: Path
    name: str
    component: str
    match: KeyMatch
    native: bool


@dataclass(frozen=True)
class BaseCheckpoint:
    """The weights of a base that a LoRA can change."""

    family: FamilyKeys
    weights: tuple[BaseWeight, ...]

    def read(self, weight: BaseWeight) -> Tensor:
        """The tensor, in its own dtype."""
        with safe_open(weight.file, "pt") as stream:
            return stream.get_tensor(weight.name)


def base_files(path: Path) -> dict[str, list[Path]]:
    """Component -> safetensors files of a base: "" for a lone file or folder, else the folder's name.

    Raises:
        BadBase: There are none.
    """
    if path.is_file():
        return {"": [path]}
    components = ("transformer", "unet", *ENCODERS)
    folders = {name: sorted((path / name).glob("*.safetensors")) for name in components}
    folders = {name: files for name, files in folders.items() if files} or {
        "": sorted(path.glob("*.safetensors"))
    }
    if not any(folders.values()):
        raise BadBase(
            f"{path} holds no .safetensors file of a base. Give a checkpoint or a diffusers folder."
        )
    return folders


def open_base(path: Path, family: str | None = None) -> BaseCheckpoint:
    """Open a base: a file, a folder with one model, or a folder in diffusers' layout.

    Raises:
        BadBase: It cannot be read, or its names are of no known family.
    """
    keys = [
        (component, file, name)
        for component, paths in base_files(path).items()
        for file in paths
        for name in _names(file)
    ]
    options = [family_keys(family)] if family else list(FAMILIES.values())
    best: BaseCheckpoint | None = None
    for names in options:
        weights = tuple(
            weight for component, file, name in keys if (weight := _weight(names, component, file, name))
        )
        if best is None or len(weights) > len(best.weights):
            best = BaseCheckpoint(names, weights)
    if best is None or not best.weights:
        raise BadBase(
            f"{path} has no weight that Limner knows by name. Give a base of {', '.join(FAMILIES)}."
        )
    return best


def _names(file: Path) -> Iterator[str]:
    try:
        with safe_open(file, "pt") as stream:
            yield from stream.keys()
    except (SafetensorError, OSError) as error:
        raise BadBase(f"{file} is no safetensors file: {error}. Get it again, as .safetensors.") from error


def _weight(names: FamilyKeys, component: str, file: Path, name: str) -> BaseWeight | None:
    if not name.endswith(".weight"):
        return None
    stem = name.removesuffix(".weight")
    if component in ENCODERS:
        location = (
            locate(stem, names, (), {component: ENCODERS[component]}) if component in names.text else None
        )
    else:
        location = locate(stem, names, AUTHORS, {})
    return location and BaseWeight(
        file, name, location.component, location.match, location.style.naming == "native"
    )


def data_offsets(file: Path) -> tuple[int, dict[str, tuple[str, int, int]]]:
    """Where the tensors of a file begin, and each one's dtype, first byte and last byte + 1 behind that.

    Raises:
        BadBase: The header is none.
    """
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= 100_000_000:
            raise BadBase(f"{file} claims a header of {length} bytes. Get it again.")
        try:
            table = json.loads(stream.read(length))
        except ValueError as error:
            raise BadBase(f"{file} has a header that is not JSON. Get it again.") from error
    entries = {name: entry for name, entry in table.items() if name != "__metadata__"}
    return 8 + length, {name: (entry["dtype"], *entry["data_offsets"]) for name, entry in entries.items()}
