"""LoRA files of every spelling: read into diffusers' names, and written in diffusers' own form."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from limner.errors import BadLora
from limner.lora import keys, qkv
from limner.lora.adapters import WeightDelta
from limner.lora.key_map import KeyMatch, KeyStyle
from limner.lora.keys import ModuleTensors
from limner.lora.tables import FAMILIES, FamilyKeys, family_keys

COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")

STEM = re.compile(rf"({'|'.join(COMPONENTS)})\.([A-Za-z0-9_.\-]+)")

DOTTED = ("transformer.", "unet.", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
NESTED = ("transformer.base_model.model.", "unet.base_model.model.", "")
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")

DENOISER = (
    *(
        KeyStyle(prefix, naming)
        for prefix in (*DOTTED, *NESTED)
        for naming in ("diffusers", "native", "processor")
    ),
    *(KeyStyle(prefix, naming, flat=True) for prefix in FLAT for naming in ("native", "diffusers")),
)
"""How files may spell modules of a denoiser; the first that fits is taken."""

CLIP_L = (
    KeyStyle("text_encoder.", "diffusers"),
    KeyStyle("text_encoders.clip_l.transformer.", "diffusers"),
    KeyStyle("lora_te_", "diffusers", flat=True),
    KeyStyle("lora_te1_", "diffusers", flat=True),
)
CLIP_G = (
    KeyStyle("text_encoder_2.", "diffusers"),
    KeyStyle("text_encoders.clip_g.transformer.", "diffusers"),
    KeyStyle("lora_te2_", "diffusers", flat=True),
)
T5 = (
    KeyStyle("text_encoders.t5xxl.transformer.", "diffusers"),
    KeyStyle("lora_te3_", "diffusers", flat=True),
)
TEXT = {
    "flux": {
        "text_encoder": CLIP_L,
        "text_encoder_2": (*T5, CLIP_G[0], CLIP_G[2]),  # OneTrainer calls T5 te2
    },
    "sdxl": {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    "sd15": {"text_encoder": CLIP_L},
    "sd3": {
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": (*T5, KeyStyle("text_encoder_3.", "diffusers")),
    },
}
"""How files may spell modules of text encoders."""


@dataclass(frozen=True)
class Location:
    """Where a module of a file belongs."""

    component: str
    place: KeyMatch
    spelling: KeyStyle


@dataclass(frozen=True)
class ParsedFile:
    """A file understood."""

    components: dict[str, dict[str, WeightDelta]]
    """Component -> module in diffusers' names -> change, scales baked in."""
    family: str | None
    """None when the names fit no known family, and are in diffusers' form."""
    form: str
    """How the denoiser's modules were spelled, for people."""
    repaired: tuple[str, ...] = ()
    """What other readers would have taken wrongly, one sentence each."""


def locate(
    stem: str,
    names: FamilyKeys,
    denoiser: Iterable[KeyStyle] = DENOISER,
    text: Mapping[str, Iterable[KeyStyle]] | None = None,
) -> Location | None:
    """Where a module's name in a file belongs in a family, if anywhere.

    Args:
        stem: The name without the ending of the tensor.
        names: The family.
        denoiser: Spellings to try for the denoiser.
        text: Spellings to try for each text encoder; those of the family when left out.
    """
    for component, spellings in (TEXT.get(names.family, {}) if text is None else text).items():
        for spelling in spellings:
            if place := _text_place(stem, names, component, spelling):
                return Location(component, place, spelling)
    for spelling in denoiser:
        if place := names.table.find(stem, spelling):
            return Location(names.component, place, spelling)
    return None


def _text_place(stem: str, names: FamilyKeys, component: str, spelling: KeyStyle) -> KeyMatch | None:
    """Since transformers 5 there is no level ``text_model``: with and without it are one."""
    if not stem.startswith(spelling.prefix) or component not in names.text:
        return None
    table = names.text[component]
    level = "text_model_" if spelling.flat else "text_model."
    longer = spelling.prefix + level + stem[len(spelling.prefix) :]
    return table.find(stem, spelling) or table.find(longer, spelling)


def candidates(stems: Sequence[str]) -> list[FamilyKeys]:
    """The families that know every module of a file."""
    return [names for names in FAMILIES.values() if all(locate(stem, names) for stem in stems)]


def read(flat: Mapping[str, Tensor], metadata: Mapping[str, str], family: str | None = None) -> ParsedFile:
    """Understand a file of any spelling.

    Args:
        flat: Its tensors.
        metadata: Its header's entries.
        family: Where the names alone do not tell; a family or a diffusers pipeline.

    Raises:
        BadLora: A tensor or a module is unknown, or the names fit several families.
    """
    parts = keys.group_by_module(flat)
    stems = [part.stem for part in parts]
    names = family_keys(family) if family else detect(parts, metadata)
    if names is None:
        return ParsedFile(from_diffusers(flat, metadata), None, "diffusers", _repairs(metadata, {}))
    places = {stem: locate(stem, names) for stem in stems}
    if lost := [stem for stem, place in places.items() if place is None]:
        if all(STEM.fullmatch(stem) for stem in stems):  # the base will say what it has not
            return ParsedFile(from_diffusers(flat, metadata), None, "diffusers", _repairs(metadata, {}))
        raise BadLora(
            f"{len(lost)} of {len(stems)} modules are not in {names.family}: {lost[0]} .. "
            "Name another --family."
        )
    located = {stem: place for stem, place in places.items() if place}
    return ParsedFile(
        gather(parts, located, metadata),
        names.family,
        _form(located, parts),
        _repairs(metadata, located),
    )


def detect(parts: Sequence[ModuleTensors], metadata: Mapping[str, str]) -> FamilyKeys | None:
    """The family of a file by its content; None when no table has its names, and they are in diffusers' form.

    Raises:
        BadLora: The names fit no family, or several and nothing tells which.
    """
    fitting = candidates([part.stem for part in parts])
    if not fitting:
        if all(STEM.fullmatch(part.stem) for part in parts):
            return None
        counts = {n.family: sum(locate(p.stem, n) is not None for p in parts) for n in FAMILIES.values()}
        best = max(counts, key=lambda name: counts[name])
        strange = next(p.stem for p in parts if locate(p.stem, FAMILIES[best]) is None)
        raise BadLora(
            f"{len(parts) - counts[best]} of {len(parts)} modules are in no family that Limner knows "
            f"({', '.join(FAMILIES)}): {strange} .. Convert it with the tool that wrote it."
        )
    fitting = _narrowed(fitting, parts, metadata)
    if len(fitting) == 1:
        return fitting[0]
    if all(STEM.fullmatch(part.stem) for part in parts):
        return None
    families = " or ".join(n.family for n in fitting)
    raise BadLora(f"The modules fit {families}, and nothing tells which. Say it with --family.")


def _narrowed(
    fitting: list[FamilyKeys], parts: Sequence[ModuleTensors], metadata: Mapping[str, str]
) -> list[FamilyKeys]:
    said = " ".join(
        metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")
    ).lower()
    for clue in (
        lambda n: any(word.startswith(start) for word in said.split() for start in n.said),
        lambda n: _width(parts) in (None, n.context) if n.context else True,
        lambda n: _depth(parts) in n.depths if n.depths else True,
    ):
        fitting = [n for n in fitting if clue(n)] or fitting
        if len(fitting) == 1:
            break
    return fitting


def _width(parts: Sequence[ModuleTensors]) -> int | None:
    """Of the text that cross-attention reads, if the file has a part of it."""
    for part in parts:
        if re.search(r"attn2[._](processor\.)?to_[kv]$", part.stem) and "down" in part.tensors:
            return part.tensors["down"].shape[1]
    return None


def _depth(parts: Sequence[ModuleTensors]) -> int:
    """One more than the highest number of a block."""
    pattern = r"(?<!single[_.])(?:transformer_blocks|double_blocks)[._](\d+)"
    return 1 + max((int(n) for part in parts for n in re.findall(pattern, part.stem)), default=-1)


def gather(
    parts: Iterable[ModuleTensors], places: Mapping[str, Location], metadata: Mapping[str, str]
) -> dict[str, dict[str, WeightDelta]]:
    """The changes of located modules, in diffusers' names: fused ones apart, halves swapped back."""
    components: dict[str, dict[str, WeightDelta]] = {}
    parts = list(parts)
    scales = _scales(parts, places, metadata)
    for each in parts:
        found = places[each.stem]
        adapter = components.setdefault(found.component, {})
        change = each.delta(scales.get(each.stem))
        for module, own in _apart(found, change):
            if module in adapter:
                raise BadLora(f"{module} is there twice, the second time as {each.stem}. Remove one of them.")
            adapter[module] = own
    return components


def _apart(found: Location, change: WeightDelta) -> list[tuple[str, WeightDelta]]:
    place, native = found.place, found.spelling.naming == "native"
    if place.member is None:
        made = zip(place.modules, qkv.split(place.row, change), strict=True)
        return [(module, own) for module, own in made if own is not None]
    if place.row.swapped and native:
        change = qkv.swap_halves(change)
    return [(place.modules[place.member], change)]


def _scales(
    parts: Sequence[ModuleTensors], places: Mapping[str, Location], metadata: Mapping[str, str]
) -> dict[str, float]:
    if keys.SCALES not in metadata:
        return {}
    made: dict[str, float] = {}
    for component in {found.component for found in places.values()}:
        own = {
            places[part.stem].place.modules[places[part.stem].place.member or 0]: part
            for part in parts
            if places[part.stem].component == component
        }
        ranks = {
            module: part.tensors["down"].shape[0] for module, part in own.items() if "down" in part.tensors
        }
        made |= {own[m].stem: scale for m, scale in keys.scales(metadata, component, ranks).items()}
    return made


def _form(places: Mapping[str, Location], parts: Sequence[ModuleTensors]) -> str:
    found = next((f for f in places.values() if not f.component.startswith("text_encoder")), None)
    found = found or next(iter(places.values()))
    prefix, naming = found.spelling.prefix, found.spelling.naming
    if prefix == "lora_unet_" or prefix.startswith("lora_te"):
        return f"kohya ({naming} names)"
    if prefix in ("transformer.", "unet.", "text_encoder.", "text_encoder_2.") and naming == "diffusers":
        halves = parts[0].tensors
        return "diffusers" if "alpha" not in halves else "diffusers with alpha"
    words = {
        "": "without prefix",
        "diffusion_model.": "ComfyUI",
        "lycoris_": "LyCORIS",
        "lora_transformer_": "OneTrainer",
        "base_model.model.": "peft",
    }
    return f"{words.get(prefix, prefix)} ({naming} names)"


def _repairs(metadata: Mapping[str, str], places: Mapping[str, Location]) -> tuple[str, ...]:
    made = []
    if keys.SCALES in metadata:
        made.append(
            f"{keys.SCALES} holds the strength, which only diffusers reads: it is multiplied in here."
        )
    if any(found.spelling.prefix in ("base_model.model.", *NESTED[:2]) for found in places.values()):
        made.append("The names begin as peft's own do, which most tools pass over: they are renamed here.")
    return tuple(made)


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
        written = set()
        for module, change in adapter.items():
            name = f"{component}.{canonical(component, module)}"
            if name in written:
                raise BadLora(f"Two modules would both be written as {name}. Leave one of them out.")
            written.add(name)
            written_ = keys.encode(change, peft=True)
            if component.startswith("text_encoder") and keys.MAGNITUDE in written_:
                written_[f"{keys.MAGNITUDE}.weight"] = written_.pop(keys.MAGNITUDE)
            flat |= {f"{name}.{ending}": tensor for ending, tensor in written_.items()}
    return flat


def canonical(component: str, module: str) -> str:
    """The name of ``module`` that files use, whichever version of transformers gave it."""
    clip = component.startswith("text_encoder") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if clip else module


def from_diffusers(
    flat: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> dict[str, dict[str, WeightDelta]]:
    """The components of a flat file in diffusers' form, float32; the inverse of ``to_diffusers``.

    Raises:
        BadLora: A key of another form, which it names; half a pair; shapes that do not belong together.
    """
    components: dict[str, dict[str, WeightDelta]] = {}
    for part in keys.group_by_module(flat):
        found = STEM.fullmatch(part.stem)
        if not found:
            raise BadLora(
                f"{part.stem} does not begin with one of: {', '.join(COMPONENTS)}. Name its --family."
            )
        component, module = found[1], found[2]
        rank = {module: part.tensors["down"].shape[0]} if "down" in part.tensors else {}
        scale = keys.scales(metadata or {}, component, rank).get(module)
        components.setdefault(component, {})[module] = part.delta(scale)
    return components
