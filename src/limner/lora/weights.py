"""Checkpoints of bases, read tensor by tensor: in diffusers' names or the authors', one file or a folder."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limner.errors import BadBase
from limner.lora.detection import locate
from limner.lora.formats import canonical
from limner.lora.metadata import header_text
from limner.models.key_map import FamilyKeys, KeyEntry, KeyMap, KeyMatch, KeyStyle
from limner.models.registry import family_keys, lora_keys

LARGEST_HEADER = 100_000_000
"""Bytes of the header of a base."""

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
AUTHORS = tuple(KeyStyle(prefix, naming) for naming in ("diffusers", "native") for prefix in PREFIXES)
ENCODERS = {
    "text_encoder": (KeyStyle("", "diffusers"),),
    "text_encoder_2": (KeyStyle("", "diffusers"),),
    "text_encoder_3": (KeyStyle("", "diffusers"),),
}


_LAYER = "text_model.encoder.layers.{}."
OPEN_CLIP = KeyMap(
    (
        KeyEntry(
            tuple(f"{_LAYER}self_attn.{part}_proj" for part in "qkv"),
            "transformer.resblocks.{}.attn.in_proj",
            (1, 1, 1),
        ),
        KeyEntry((f"{_LAYER}self_attn.out_proj",), "transformer.resblocks.{}.attn.out_proj"),
        KeyEntry((f"{_LAYER}mlp.fc1",), "transformer.resblocks.{}.mlp.c_fc"),
        KeyEntry((f"{_LAYER}mlp.fc2",), "transformer.resblocks.{}.mlp.c_proj"),
        KeyEntry(("text_projection",), "text_projection"),
    )
)
"""CLIP-G as its authors name it, which is how it stands in SDXL's single files."""

SINGLE_FILE_ENCODERS = (
    ("cond_stage_model.transformer.", "clip", 0, None),
    ("conditioner.embedders.0.transformer.", "clip", 0, None),
    ("conditioner.embedders.1.model.", "clip", 1, OPEN_CLIP),
    ("text_encoders.clip_l.transformer.", "clip", 0, None),
    ("text_encoders.clip_g.transformer.", "clip", 1, None),
    ("text_encoders.t5xxl.transformer.", "t5", 0, None),
)
"""Text encoders in single files: prefix, model, which of the family's encoders of that model, and its names
where they are not those of transformers."""

PROBES = {"clip": "text_projection", "t5": "encoder.block.0.layer.0.SelfAttention.q"}
"""A module that only text encoders of that model have."""


@dataclass(frozen=True)
class BaseWeight:
    """One weight of a checkpoint, and where it belongs."""

    file: Path
    name: str
    component: str
    match: KeyMatch
    native: bool

    @property
    def transposed(self) -> bool:
        """Whether it stands as (in, out): OpenCLIP's projection, a parameter and no layer."""
        return self.native and self.name.endswith("text_projection")

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules in it, in diffusers' names as files spell them, from the top."""
        modules = self.match.modules if self.native else (self.match.modules[self.match.member or 0],)
        return tuple(canonical(self.component, module) for module in modules)


@dataclass(frozen=True)
class OtherTensor:
    """A tensor that no LoRA changes: a bias, a norm, an embedding, a part that the family does not know."""

    file: Path
    name: str
    component: str


@dataclass(frozen=True)
class BaseCheckpoint:
    """The weights of a base that a LoRA can change."""

    family: FamilyKeys
    weights: tuple[BaseWeight, ...]
    other_tensors: tuple[OtherTensor, ...] = field(default=(), repr=False)
    """All that stands beside them."""

    def read(self, weight: BaseWeight | OtherTensor) -> Tensor:
        """The tensor, in its own dtype, (out, in[, height, width]) of a weight."""
        with safe_open(weight.file, "pt") as stream:
            tensor = stream.get_tensor(weight.name)
        return tensor.T if isinstance(weight, BaseWeight) and weight.transposed else tensor

    def modules(self) -> dict[tuple[str, str], BaseWeight]:
        """(component, module) -> the weight that it is in."""
        return {(weight.component, module): weight for weight in self.weights for module in weight.modules}

    def read_modules(self, weight: BaseWeight) -> Mapping[str, Tensor]:
        """Module -> its own weight as diffusers has it: fused ones apart, halves swapped back.

        Raises:
            BadBase: The weight does not part.
        """
        tensor = self.read(weight)
        if not weight.native:
            return {weight.modules[0]: tensor}
        row = weight.match.row
        if row.swaps((tensor.shape[0], tensor[0].numel())):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        unit, rest = divmod(tensor.shape[0], sum(row.shares))
        if rest:
            raise BadBase(f"{weight.name} has {tensor.shape[0]} rows, which do not part as {row.shares}.")
        return dict(zip(weight.modules, tensor.split([unit * share for share in row.shares]), strict=True))


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
    # what fits two families alike is of the one that others are taken for
    all_keys = sorted(lora_keys().values(), key=lambda names: bool(names.taken_for))
    options = [family_keys(family)] if family else all_keys
    best: BaseCheckpoint | None = None
    for names in options:
        tensors = [
            _weight(names, component, file, name) or OtherTensor(file, name, component)
            for component, file, name in keys
        ]
        weights = tuple(tensor for tensor in tensors if isinstance(tensor, BaseWeight))
        if best is None or len(weights) > len(best.weights):
            other_tensors = tuple(tensor for tensor in tensors if isinstance(tensor, OtherTensor))
            best = BaseCheckpoint(names, weights, other_tensors)
    if best is None or not best.weights:
        raise BadBase(
            f"{path} has no weight that Limner knows by name. Give a base of {', '.join(lora_keys())}."
        )
    return best


def _names(file: Path) -> Iterator[str]:
    try:
        with safe_open(file, "pt") as stream:
            yield from stream.keys()
    except (SafetensorError, OSError) as error:
        raise BadBase(f"{file} is no safetensors file: {error}. Get it again, as .safetensors.") from error


def _weight(names: FamilyKeys, component: str, file: Path, name: str) -> BaseWeight | None:
    stem = name.removesuffix("_weight") if name.endswith(".in_proj_weight") else name.removesuffix(".weight")
    if stem == name and not name.endswith(".text_projection"):
        return None
    if not component and (weight := _encoder_weight(names, file, name, stem)):
        return weight
    if component in ENCODERS:
        location = (
            locate(stem, names, (), {component: ENCODERS[component]}) if component in names.text else None
        )
    else:
        location = locate(stem, names, AUTHORS, {})
    return location and BaseWeight(
        file, name, location.component, location.match, location.style.naming == "native"
    )


def _encoder_weight(names: FamilyKeys, file: Path, name: str, stem: str) -> BaseWeight | None:
    """A weight of a text encoder in a single file."""
    for prefix, model, number, own_names in SINGLE_FILE_ENCODERS:
        if not stem.startswith(prefix):
            continue
        probe = KeyStyle("", "diffusers")
        components = [part for part, table in names.text.items() if table.find(PROBES[model], probe)]
        if number >= len(components):
            return None
        component, style = components[number], KeyStyle(prefix, "native" if own_names else "diffusers")
        if own_names:
            match = own_names.find(stem, style)
            return match and BaseWeight(file, name, component, match, native=True)
        location = locate(stem, names, (), {component: (style,)})
        return location and BaseWeight(file, name, component, location.match, native=False)
    return None


def data_offsets(file: Path) -> tuple[int, dict[str, tuple[str, int, int]]]:
    """Where the tensors of a file begin, and each one's dtype, first byte and last byte + 1 behind that.

    Raises:
        BadBase: The header is none.
    """
    try:
        text, start = header_text(file, LARGEST_HEADER)
        table = json.loads(text)
    except (ValueError, OSError) as error:
        raise BadBase(f"{file} is no safetensors file: {error}. Get it again.") from error
    entries = {name: entry for name, entry in table.items() if name != "__metadata__"}
    return start, {name: (entry["dtype"], *entry["data_offsets"]) for name, entry in entries.items()}
