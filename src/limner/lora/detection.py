"""Which family a LoRA file is of: by its names, and where several have them by metadata, shapes and depth."""

import re
from collections.abc import Mapping, Sequence

from limner.errors import BadLora
from limner.lora import qkv
from limner.lora.keys import ModuleTensors
from limner.lora.locate import Location, locate
from limner.models.lora_keys import FamilyKeys
from limner.models.registry import lora_keys

COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")

STEM = re.compile(rf"({'|'.join(COMPONENTS)})\.([A-Za-z0-9_.\-]+)")

BASE_KEYS = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "ss_network_module")
"""Entries of the metadata that may name the base."""


def candidates(stems: Sequence[str]) -> list[FamilyKeys]:
    """The families that know every module of a file."""
    return [names for names in lora_keys().values() if all(locate_any(stem, names) for stem in stems)]


def locate_any(stem: str, names: FamilyKeys) -> Location | None:
    """Where a module belongs, however it is spelled; TheLastBen's trainer ends names with an underscore."""
    return locate(stem.rstrip("_"), names)


def detect(parts: Sequence[ModuleTensors], metadata: Mapping[str, str]) -> FamilyKeys | None:
    """The family of a file by its content; None when no table has its names, and they are in diffusers' form.

    Raises:
        BadLora: The names fit no family, or several and nothing tells which.
    """
    families = candidates([part.stem for part in parts])
    if not families:
        if all(STEM.fullmatch(part.stem) for part in parts):
            return None
        counts = {
            n.family: sum(locate_any(p.stem, n) is not None for p in parts) for n in lora_keys().values()
        }
        best = max(counts, key=lambda name: counts[name])
        stray = next(p.stem for p in parts if locate_any(p.stem, lora_keys()[best]) is None)
        raise BadLora(
            f"{len(parts) - counts[best]} of {len(parts)} modules are in no family that Limner knows "
            f"({', '.join(lora_keys())}): {stray} .. Convert it with the tool that wrote it."
        )
    families = _narrow(families, parts, metadata)
    if len(families) == 1:
        return families[0]
    if all(STEM.fullmatch(part.stem) for part in parts):
        return None
    labels = " or ".join(n.family for n in families)
    raise BadLora(f"The modules fit {labels}, and nothing tells which. Say it with --family.")


def _narrow(
    families: list[FamilyKeys], parts: Sequence[ModuleTensors], metadata: Mapping[str, str]
) -> list[FamilyKeys]:
    """The families that fit by one clue after the other; a clue that fits none is no clue."""
    words = re.split(r"[\s/\\]+", " ".join(metadata.get(key, "") for key in BASE_KEYS).lower())
    for clue in (
        lambda n: any(word.startswith(start) for word in words for start in n.base_names),
        lambda n: all(_has_shape(part, n) for part in parts),
        lambda n: depth(parts) in n.depths if n.depths else True,
        lambda n: _is_kohya_style(parts, n),
    ):
        families = [n for n in families if clue(n)] or families
        if len(families) == 1:
            break
    return families


def _has_shape(part: ModuleTensors, names: FamilyKeys) -> bool:
    """Whether a published model of the family has such a module of that shape; true where none is known."""
    location = locate_any(part.stem, names)
    if location is None or location.component != names.component:
        return True
    shape = part.shape
    if shape is None:
        return True
    match, (rows, columns) = location.match, shape
    modules, heights = match.modules, [rows]
    if match.member is not None:
        modules = (modules[match.member],)
    elif len(modules) > 1:
        if rows % sum(match.row.shares):
            return False
        heights = qkv.row_counts(match.row, rows)
    kernels = {bool(names.kernel(module)) for module in modules}
    if part.is_convolution is not None and part.is_convolution not in kernels:
        return False
    return all(
        names.has_shape(module, (height, columns)) for module, height in zip(modules, heights, strict=True)
    )


def depth(parts: Sequence[ModuleTensors]) -> int:
    """One more than the highest number of a double block; single blocks are counted apart."""
    pattern = r"(?<!single[_.])(?:transformer_blocks|double_blocks)[._](\d+)"
    return 1 + max((int(n) for part in parts for n in re.findall(pattern, part.stem)), default=-1)


def _is_kohya_style(parts: Sequence[ModuleTensors], names: FamilyKeys) -> bool:
    """Whether kohya's tools spell the family so: SDXL by the authors' names, SD 1.5 by diffusers'."""
    style = names.tools["kohya"].writes if "kohya" in names.tools else None
    return style is not None and all(names.table.find(part.stem, style) for part in parts)
