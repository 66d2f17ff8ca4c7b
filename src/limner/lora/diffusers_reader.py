"""What stock diffusers makes of a LoRA file of any form, by its own importer, config and names of modules."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limner.errors import BadLora
from limner.lora.adapters import WeightDelta, kind
from limner.lora.detection import Location, locate
from limner.lora.diffusers_loader import importer_errors, require_lokr, state
from limner.lora.factors import Factors
from limner.lora.formats import gather
from limner.lora.keys import group_by_module
from limner.lora.peft_config import PeftConfig
from limner.lora.tools import DIFFUSERS
from limner.models.key_map import FamilyKeys

ADAPTER_NAME = re.compile(r"\.lora_[AB]\.\w+\.weight$")
"""Names of tensors with the name of an adapter in them, under which peft does not look for them again."""


def as_loaded(path: Path, names: FamilyKeys) -> dict[str, dict[str, WeightDelta]]:
    """What the family's stock pipeline makes of a file of any form, by its own importer and its own config.

    Where alphas differ, their patterns are diffusers' own, with the modules that those miss.

    Raises:
        BadLora: The importer fails, or would; or it passes over a component.
    """
    import diffusers

    pipeline: Any = getattr(diffusers, names.pipelines[0])
    flat, alphas, settings = state(pipeline, path)
    strays = {key.partition(".")[0] for key in flat} - set(pipeline._lora_loadable_modules)
    if strays:
        raise BadLora(f"{names.pipelines[0]} passes over {' and '.join(sorted(strays))}.")
    _require_words(flat, names, pipeline)
    components: dict[str, dict[str, WeightDelta]] = {}
    for component in sorted({key.partition(".")[0] for key in flat}):
        tensors = _own(flat, component)
        config = None
        if any(".lokr_" in key for key in tensors):
            require_lokr(path, tensors)
        else:
            tensors, config = _peft_config(
                component, tensors, _own(alphas, component), _own(settings, component)
            )
        parts = group_by_module({f"{component}.{key}": tensor for key, tensor in tensors.items()})
        locations = _own_modules([part.stem for part in parts], names, fused=config is None)
        components |= gather(parts, locations, {component: config} if config else {}, names)
        for change in components[component].values():
            if kind(change) not in names.tools[DIFFUSERS.name].kinds:
                raise BadLora(f"{names.pipelines[0]} reads no {kind(change)}.")
    for module, change in components.get(names.component, {}).items():
        kernel = names.kernel(module)
        if isinstance(change, Factors) and bool(kernel) != (change.down.dim() == 4):
            raise BadLora(
                f"{module} has factors of {change.down.dim()} sides, and peft wants its kernel in them."
            )
    return components


def _require_words(flat: Mapping[str, Tensor], names: FamilyKeys, pipeline: Any) -> None:
    """Raise ``BadLora`` for what ``load_lora_weights`` raises of: a tensor whose name is no adapter's."""
    if hasattr(pipeline, "_control_lora_supported_norm_keys"):  # FLUX.1's passes over such tensors
        return
    words = ("lora", "lokr") if "LoKr" in names.tools[DIFFUSERS.name].kinds else ("lora",)
    if strange := next((key for key in flat if not any(word in key for word in words)), ""):
        raise BadLora(f"{names.pipelines[0]} refuses a file with {strange}.")


def _own_modules(stems: Sequence[str], names: FamilyKeys, *, fused: bool) -> dict[str, Location]:
    """Where modules stand in diffusers' models, by their names there alone.

    Args:
        stems: The modules.
        names: The family.
        fused: Whether diffusers fuses q, k and v for them, if it ever does.

    Raises:
        BadLora: There is no such module: peft passes over it.
    """
    rules = names.tools[DIFFUSERS.name]
    locations = {stem: locate(stem, names, rules.reads, rules.text) for stem in stems}
    for stem, location in locations.items():
        if location is None or (location.match.member is None and not (fused and rules.fuses)):
            raise BadLora(f"{names.pipelines[0]} has no module {stem}.")
    return {stem: location for stem, location in locations.items() if location}


def _own(entries: Mapping[str, Any], component: str) -> dict[str, Any]:
    start = f"{component}."
    return {key.removeprefix(start): value for key, value in entries.items() if key.startswith(start)}


def _peft_config(
    component: str, tensors: dict[str, Tensor], alphas: dict[str, Any], settings: dict[str, Any]
) -> tuple[dict[str, Tensor], PeftConfig]:
    """The tensors in peft's names, and the config that diffusers makes of them (``load_lora_adapter``)."""
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )
    from diffusers.utils.peft_utils import _create_lora_config

    in_text = component.startswith("text_encoder")
    with importer_errors():
        if in_text:
            tensors = convert_state_dict_to_peft(convert_state_dict_to_diffusers(tensors))
        elif "lora_A" not in next(iter(tensors)):
            tensors = convert_unet_state_dict_to_peft(tensors)
        mark = "" if in_text else "^"
        ranks = {
            f"{mark}{key}": tensor.shape[1]
            for key, tensor in tensors.items()
            if "lora_B" in key and tensor.dim() > 1
        }
        config: Any = _create_lora_config(
            tensors, alphas or None, settings or None, ranks, is_unet=not in_text
        )
    if strange := next((key for key in tensors if ADAPTER_NAME.search(key)), ""):
        raise BadLora(f"diffusers makes a layer for {strange} and leaves it without numbers.")
    alpha_pattern = {key: float(value) for key, value in config.alpha_pattern.items()}
    return tensors, PeftConfig(
        "diffusers' config", float(config.lora_alpha), config.r, config.use_rslora, alpha_pattern, {}
    )
