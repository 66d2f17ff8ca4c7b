"""LoRA files of every spelling: read into diffusers' names, and written in diffusers' own form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora import detection, keys
from limner.lora.adapters import WeightDelta
from limner.lora.detection import (
    BASE_KEYS,
    COMPONENTS,
    NESTED_PREFIXES,
    STEM,
    Location,
    detect,
    locate_any,
    look_alikes,
)
from limner.lora.factors import Factors
from limner.lora.keys import ModuleTensors
from limner.lora.peft_config import CONFIG_FILE, HEADER_KEY, PeftConfig, in_header
from limner.models.key_map import FamilyKeys
from limner.models.registry import family_keys

EVERY_COMPONENT = ""
"""Under which a config stands that names no component: of peft's own files."""


@dataclass(frozen=True)
class ParsedFile:
    """A file understood."""

    components: dict[str, dict[str, WeightDelta]]
    """Component -> module in diffusers' names -> change, scales baked in."""
    family: str | None
    """None when the names fit no known family, and are in diffusers' form."""
    form: str
    """How the denoiser's modules were spelled, for people."""
    repairs: tuple[str, ...] = ()
    """What other readers would have taken wrongly, one sentence each."""
    notes: tuple[str, ...] = ()
    """What cannot be known, one sentence each."""
    unread: tuple[str, ...] = ()
    """Tensors beside the factors that were not read, one sentence for each kind."""


def read(
    flat: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    family: str | None = None,
    config: PeftConfig | None = None,
) -> ParsedFile:
    """Understand a file of any spelling.

    Args:
        flat: Its tensors.
        metadata: Its header's entries.
        family: Where the names alone do not tell; a family or a diffusers pipeline.
        config: Of peft, where one stands beside the file; it holds for all modules.

    Raises:
        BadLora: A tensor or a module is unknown, or the names fit several families.
    """
    parts = keys.group_by_module(flat)
    configs = in_header(metadata) | ({EVERY_COMPONENT: config} if config else {})
    stems = [part.stem for part in parts]
    clues = {**metadata, BASE_KEYS[2]: config.base} if config and config.base else metadata
    names = family_keys(family) if family else detect(parts, clues)
    if names is None:
        return _of_no_family(flat, configs)
    locations = {stem: locate_any(stem, names) for stem in stems}
    if unknown := [stem for stem, match in locations.items() if match is None]:
        if all(STEM.fullmatch(stem) for stem in stems):  # the base will say what it has not
            return _of_no_family(flat, configs)
        raise BadLora(
            f"{len(unknown)} of {len(stems)} modules are not in {names.family}: {unknown[0]} .. "
            "Name another --family."
        )
    matches = {stem: match for stem, match in locations.items() if match}
    alternatives = () if family else look_alikes(names, parts, metadata)
    return ParsedFile(
        gather(parts, matches, configs, names),
        names.family,
        _form(matches, parts),
        _repairs(configs, matches),
        (*_notes(parts, matches, configs), *(_assumed(names, other) for other in alternatives)),
        keys.unread(flat),
    )


def _of_no_family(flat: Mapping[str, Tensor], configs: Mapping[str, PeftConfig]) -> ParsedFile:
    return ParsedFile(
        from_diffusers(flat, configs),
        None,
        "diffusers",
        _repairs(configs, {}),
        unread=keys.unread(flat),
    )


def gather(
    parts: Iterable[ModuleTensors],
    locations: Mapping[str, Location],
    configs: Mapping[str, PeftConfig] | None = None,
    names: FamilyKeys | None = None,
) -> dict[str, dict[str, WeightDelta]]:
    """The changes of located modules, in diffusers' names: fused ones apart, halves swapped back.

    Args:
        parts: The modules.
        locations: Stem -> where it belongs.
        configs: Component -> peft's config of it.
        names: The family, which knows the kernels of convolutions.
    """
    components: dict[str, dict[str, WeightDelta]] = {}
    parts_of_one: set[str] = set()
    for part in parts:
        location = locations[part.stem]
        adapter = components.setdefault(location.component, {})
        kernel = () if names is None else names.kernel(location.match.modules[location.match.member or 0])
        change = part.delta(_scale(part, location, configs or {}), kernel)
        for module, member in _split_members(location, change):
            twin, is_part = adapter.get(module), location.match.member is None
            if twin is None:
                adapter[module] = member
            elif is_part != (module in parts_of_one):
                adapter[module] = _sum(twin, member, part.stem)
            else:
                raise BadLora(f"{module} is there twice, the second time as {part.stem}. Remove one of them.")
            parts_of_one |= {module} if is_part else set()
    return components


def _sum(first: WeightDelta, second: WeightDelta, stem: str) -> WeightDelta:
    """The change of a part of a fused weight and one of its own beside it, which tools add up."""
    if not isinstance(first, Factors) or not isinstance(second, Factors):
        raise BadLora(f"{stem} changes what a fused weight changes too, and not both are LoRAs. Remove one.")
    return Factors(torch.cat([first.down, second.down]), torch.cat([first.up, second.up], dim=1))


def _split_members(location: Location, change: WeightDelta) -> list[tuple[str, WeightDelta]]:
    match, native = location.match, location.style.naming == "native"
    if match.member is None:
        members = zip(match.modules, detection.split(match.row, change), strict=True)
        return [(module, member) for module, member in members if member is not None]
    if native and match.row.swaps(change.shape):
        change = detection.swap_halves(change)
    return [(match.modules[match.member], change)]


def _scale(part: ModuleTensors, location: Location, configs: Mapping[str, PeftConfig]) -> float | None:
    """What peft's config says of a module, which it calls as the file does, less the prefix."""
    config = configs.get(location.component) or configs.get(EVERY_COMPONENT)
    if config is None:
        return None
    return config.scale(part.stem.removeprefix(location.style.prefix), part.rank)


def _form(locations: Mapping[str, Location], parts: Sequence[ModuleTensors]) -> str:
    location = next(
        (item for item in locations.values() if not item.component.startswith("text_encoder")), None
    )
    location = location or next(iter(locations.values()))
    prefix, naming = location.style.prefix, location.style.naming
    if prefix == "lora_unet_" or prefix.startswith("lora_te"):
        return f"kohya ({naming} names)"
    if prefix in ("transformer.", "unet.", "text_encoder.", "text_encoder_2.") and naming == "diffusers":
        endings = parts[0].tensors
        return "diffusers" if "alpha" not in endings else "diffusers with alpha"
    words = {
        "": "without prefix",
        "diffusion_model.": "ComfyUI",
        "lycoris_": "LyCORIS",
        "lora_transformer_": "OneTrainer",
        "base_model.model.": "peft",
    }
    return f"{words.get(prefix, prefix)} ({naming} names)"


def _repairs(configs: Mapping[str, PeftConfig], locations: Mapping[str, Location]) -> tuple[str, ...]:
    lines = []
    if config := configs.get(EVERY_COMPONENT):
        lines.append(f"{CONFIG_FILE} holds the strength (alpha {config.alpha:g}): it is multiplied in here.")
    elif configs:
        lines.append(
            f"{HEADER_KEY} holds the strength, which only diffusers reads: it is multiplied in here."
        )
    if any(
        location.style.prefix in ("base_model.model.", *NESTED_PREFIXES[:2])
        for location in locations.values()
    ):
        lines.append("The names begin as peft's own do, which most tools pass over: they are renamed here.")
    return tuple(lines)


def _assumed(names: FamilyKeys, other: FamilyKeys) -> str:
    return (
        f"Its names and shapes are those of {names.family} and of {other.family}, and nothing in it says "
        f"which: taken as {names.family}. If it is the other, say --family {other.family}."
    )


def _notes(
    parts: Sequence[ModuleTensors], locations: Mapping[str, Location], configs: Mapping[str, PeftConfig]
) -> tuple[str, ...]:
    by_peft = any(location.style.prefix == "base_model.model." for location in locations.values())
    if by_peft and not configs and not any("alpha" in part.tensors for part in parts):
        return (f"peft keeps the strength in {CONFIG_FILE}, which is not beside the file: taken as 1.",)
    return ()


def to_diffusers(components: Mapping[str, Mapping[str, WeightDelta]]) -> dict[str, Tensor]:
    """Flat names as diffusers reads them: ``transformer.<module>.lora_A.weight`` (down), ``lora_B`` (up).

    CLIP's modules always get the ``text_model.`` level that transformers 5 dropped: current diffusers drops
    it again when it must, and older ones and ComfyUI know no other name.

    Raises:
        BadLora: A component is none of ``COMPONENTS``, or two modules get one name.
    """
    flat: dict[str, Tensor] = {}
    for component, adapter in components.items():
        if component not in COMPONENTS:
            raise BadLora(
                f"No LoRA file has a component {component!r}; these are known: {', '.join(COMPONENTS)}."
            )
        names = set()
        for module, change in adapter.items():
            name = f"{component}.{canonical(component, module)}"
            if name in names:
                raise BadLora(f"Two modules would both be written as {name}. Leave one of them out.")
            names.add(name)
            endings = keys.encode(change, peft=True)
            if component.startswith("text_encoder") and keys.MAGNITUDE in endings:
                endings[f"{keys.MAGNITUDE}.weight"] = endings.pop(keys.MAGNITUDE)
            flat |= {f"{name}.{ending}": tensor for ending, tensor in endings.items()}
    return flat


def canonical(component: str, module: str) -> str:
    """The name of ``module`` that files use, whichever version of transformers gave it."""
    clip = component.startswith("text_encoder") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if clip else module


def from_diffusers(
    flat: Mapping[str, Tensor], configs: Mapping[str, PeftConfig] | None = None
) -> dict[str, dict[str, WeightDelta]]:
    """The components of a flat file in diffusers' form, float32; the inverse of ``to_diffusers``.

    Raises:
        BadLora: A key of another form, which it names; half a pair; shapes that do not belong together.
    """
    components: dict[str, dict[str, WeightDelta]] = {}
    for part in keys.group_by_module(flat):
        stem_match = STEM.fullmatch(part.stem)
        if not stem_match:
            raise BadLora(
                f"{part.stem} does not begin with one of: {', '.join(COMPONENTS)}. Name its --family."
            )
        component, module = stem_match[1], stem_match[2]
        config = (configs or {}).get(component) or (configs or {}).get(EVERY_COMPONENT)
        scale = config.scale(module, part.rank) if config else None
        components.setdefault(component, {})[module] = part.delta(scale)
    return components
