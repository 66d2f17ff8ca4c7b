"""What each tool reads and what is written for it: facts of its source, as data, with the version.

Nothing here is code of those tools. ``reads`` is what a tool finds in a file, ``writes`` what Limner puts
there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from limner.errors import BadLora
from limner.lora import keys, qkv
from limner.lora.adapters import Axis, Dora, LokrRows, WeightDelta, kind
from limner.lora.factors import Factors
from limner.lora.formats import TEXT, canonical, gather, locate, to_diffusers
from limner.lora.key_map import KeyEntry, KeyMatch, KeyStyle
from limner.lora.tables import FAMILIES, FamilyKeys, family_keys

ALL = ("flux", "flux2", "qwen-image", "z-image", "sd3", "sdxl", "sd15")


def _flat(prefix: str, naming: str = "native") -> KeyStyle:
    return KeyStyle(prefix, "native" if naming == "native" else "diffusers", flat=True)


def _dotted(prefix: str, naming: str = "diffusers") -> KeyStyle:
    return KeyStyle(prefix, "native" if naming == "native" else "diffusers")


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    source: str
    """Where the facts are from."""
    writes: Mapping[str, KeyStyle]
    """Family -> spelling of the denoiser's modules."""
    reads: Mapping[str, tuple[KeyStyle, ...]]
    """Family -> every spelling of them that the tool takes."""
    text: Mapping[str, Mapping[str, tuple[KeyStyle, ...]]]
    """Family -> text encoder -> spellings that it takes; the first is written."""
    kinds: Mapping[str, tuple[str, ...]]
    """Family -> adapters that the tool computes rightly."""
    peft: bool | Mapping[str, bool]
    """Whether lora_A and lora_B are written without alpha; else lora_down, lora_up and alpha = rank."""
    norms: Axis = "in"
    """The axis of a DoRA's norms that the tool computes rightly; it knows no other name than that form's."""
    unfused: Mapping[str, KeyStyle] = field(default_factory=dict)
    """Spelling of modules one by one, for adapters that cannot be fused."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Family -> pattern of diffusers' module names that the tool has no name for when they are so spelled."""
    kernels: bool = True
    """Whether convolutions with kernels larger than 1 x 1 are computed."""

    def peft_in(self, family: str) -> bool:
        """Whether files for ``family`` have lora_A and lora_B."""
        return self.peft if isinstance(self.peft, bool) else self.peft.get(family, False)


LORAS = ("LoRA", "LoHa", "LoKr", "DoRA")

TE = {"text_encoder": (_flat("lora_te1_"), _flat("lora_te_")), "text_encoder_2": (_flat("lora_te2_"),)}
T5_FLAT = (_flat("lora_te3_"), _flat("lora_te2_"))
KOHYA_TEXT = {
    "flux": {"text_encoder": TE["text_encoder"], "text_encoder_2": T5_FLAT},
    "sdxl": TE,
    "sd15": {"text_encoder": (_flat("lora_te_"), _flat("lora_te1_"))},
    "sd3": {**TE, "text_encoder_3": T5_FLAT[:1]},
}
DIFFUSERS_TEXT = {f: {c: (_dotted(f"{c}."),) for c in FAMILIES[f].text} for f in TEXT}
CLIPS = ("text_encoder", "text_encoder_2")

DIFFUSERS = Tool(
    name="diffusers",
    source="diffusers 0.42.1, whose own lora_state_dict reads every file that is written for it",
    writes={f: _dotted(f"{FAMILIES[f].component}.") for f in ALL},
    reads={f: (_dotted(f"{FAMILIES[f].component}."),) for f in ALL},
    text=DIFFUSERS_TEXT,
    kinds={
        **dict.fromkeys(ALL, ("LoRA", "DoRA")),
        **dict.fromkeys(("flux2", "z-image"), ("LoRA", "DoRA", "LoKr")),
    },
    peft=True,
    norms="out",
)

FLUX_COMFY = (
    _flat("lora_unet_"),
    _dotted("diffusion_model.", "native"),
    *(_dotted(prefix) for prefix in ("transformer.", "")),
    *(_flat(prefix, "diffusers") for prefix in ("lycoris_", "lora_transformer_")),
)
UNET_COMFY = (
    _flat("lora_unet_"),
    _dotted("diffusion_model.", "native"),
    *(_flat(prefix, "diffusers") for prefix in ("lora_unet_", "lycoris_")),
    *(KeyStyle(prefix, "processor") for prefix in ("unet.", "")),
)

COMFYUI = Tool(
    name="comfyui",
    source="ComfyUI, lora.py at 17358c8f, utils.py at 09708eae, adapters at 6f98b150 and 2bffe2f4",
    writes={
        "flux": _dotted("diffusion_model.", "native"),
        "flux2": _dotted("diffusion_model.", "native"),
        "qwen-image": _dotted("diffusion_model."),
        "z-image": _dotted("diffusion_model."),
        "sd3": _dotted("transformer."),
        "sdxl": _flat("lora_unet_"),
        "sd15": _flat("lora_unet_", "diffusers"),
    },
    reads={
        "flux": FLUX_COMFY,
        "flux2": FLUX_COMFY,
        "qwen-image": (
            _flat("lora_unet_"),
            *(_dotted(prefix) for prefix in ("diffusion_model.", "transformer.", "")),
            _flat("lycoris_", "diffusers"),
        ),
        "z-image": (
            _flat("lora_unet_"),
            _dotted("diffusion_model.", "native"),
            *(_dotted(prefix) for prefix in ("diffusion_model.", "transformer.", "")),
            _flat("lycoris_", "diffusers"),
        ),
        "sd3": (
            _flat("lora_unet_"),
            _dotted("diffusion_model.", "native"),
            *(_dotted(prefix) for prefix in ("transformer.", "base_model.model.")),
            *(_flat(prefix, "diffusers") for prefix in ("lycoris_", "lora_transformer_")),
        ),
        "sdxl": UNET_COMFY,
        "sd15": UNET_COMFY,
    },
    text={
        f: {
            c: (
                *spellings,
                *(DIFFUSERS_TEXT[f][c] if c in CLIPS and (f, c) != ("flux", "text_encoder_2") else ()),
            )
            for c, spellings in KOHYA_TEXT[f].items()
        }
        for f in KOHYA_TEXT
    },
    kinds=dict.fromkeys(ALL, LORAS),
    peft=dict.fromkeys(("flux2", "qwen-image", "z-image", "sd3"), True),
    unfused=dict.fromkeys(("flux", "flux2"), _flat("lycoris_", "diffusers")),
    lacks={"flux2": r"time_guidance_embed\.|(double|single)_stream_modulation"},
)

KOHYA = Tool(
    name="kohya",
    source="sd-scripts at 48d368fa, networks/lora.py, lora_flux.py, lora_sd3.py, lora_lumina.py",
    writes={
        **{f: _flat("lora_unet_") for f in ALL},
        "sd15": _flat("lora_unet_", "diffusers"),
    },
    reads={
        **{f: (_flat("lora_unet_"),) for f in ALL},
        **{f: (_flat("lora_unet_"), _flat("lora_unet_", "diffusers")) for f in ("sdxl", "sd15")},
    },
    text=KOHYA_TEXT,
    kinds=dict.fromkeys(ALL, ("LoRA", "LoHa", "LoKr", "DoRA")),
    peft=False,
)

DIFFSYNTH = Tool(
    name="diffsynth",
    source="DiffSynth-Studio 2.1.12 at fed7b18f, diffsynth/utils/lora/general.py, flux.py, sdxl.py",
    writes={
        "flux": _flat("lora_unet_"),
        "flux2": _dotted(""),
        "qwen-image": _dotted("diffusion_model."),
        "z-image": _dotted("diffusion_model."),
        "sdxl": _dotted(""),
        "sd15": _dotted(""),
    },
    reads={
        "flux": (_flat("lora_unet_"),),
        **{
            f: (_dotted("diffusion_model."), _dotted(""))
            for f in ("flux2", "qwen-image", "z-image", "sdxl", "sd15")
        },
    },
    text={},
    kinds=dict.fromkeys(("flux", "flux2", "qwen-image", "z-image", "sdxl", "sd15"), ("LoRA",)),
    peft=dict.fromkeys(("flux2", "qwen-image", "z-image", "sdxl", "sd15"), True),
    lacks={"flux": r"(?!transformer_blocks\.|single_transformer_blocks\.)"},
    kernels=False,
)

FUSED = ("flux2",)
"""Families of whose fused weights diffusers reads a LoKr (``_maybe_fuse_qkv_projections_for_lokr``)."""

TOOLS = {target.name: target for target in (DIFFUSERS, COMFYUI, KOHYA, DIFFSYNTH)}


def tool_named(name: str) -> Tool:
    """The tool of that name.

    Raises:
        BadLora: It is unknown.
    """
    if name not in TOOLS:
        raise BadLora(f"No files are written for {name!r}. Known: {', '.join(TOOLS)}.")
    return TOOLS[name]


def unsupported(
    components: Mapping[str, Mapping[str, WeightDelta]], family: str | None, tool: Tool
) -> dict[tuple[str, str], str]:
    """What the tool could not read or would compute wrongly: (component, module) -> reason."""
    if family is None:
        return {}
    names = family_keys(family)
    if names.family not in tool.writes:
        reason = f"{tool.name} has no reader for {names.family}"
        return {(c, m): reason for c, adapter in components.items() for m in adapter}
    reasons = {}
    for component, adapter in components.items():
        mixed = tool is DIFFUSERS and len({kind(change) for change in adapter.values()}) > 1
        for module, change in adapter.items():
            reason = _refusal(component, module, change, names, tool)
            if not reason and mixed and kind(change) != "LoRA":
                reason = "diffusers takes one kind of adapter in a file, and there are LoRAs too"
            if reason:
                reasons[component, module] = reason
    return reasons


def _refusal(component: str, module: str, change: WeightDelta, names: FamilyKeys, tool: Tool) -> str:
    family = names.family
    if component != names.component and component not in tool.text.get(family, {}):
        return f"{tool.name} reads no {component} of {family}"
    if kind(change) not in tool.kinds[family]:
        return f"{tool.name} reads no {kind(change)} for {family}"
    if component == names.component:
        style = tool.writes[family]
        lacks = tool.lacks.get(family)
        if lacks and re.match(lacks, module) and (style.naming != "native" or tool is DIFFSYNTH):
            return f"{tool.name} has no name for it"
    if not tool.kernels and isinstance(change, Factors) and change.down[0, 0].numel() > 1:
        return f"{tool.name} multiplies convolutions as if they had no kernel"
    if isinstance(change, LokrRows) and _fused_name(module, names, tool):
        return ""
    try:
        keys.encode(change, peft=tool.peft_in(family), norms=tool.norms)
    except BadLora as error:
        return f"{tool.name}: {error}".removesuffix(".")
    return ""


def encode_for(
    components: Mapping[str, Mapping[str, WeightDelta]], family: str | None, tool: Tool
) -> dict[str, Tensor]:
    """The tensors of a file for a tool.

    Raises:
        BadLora: The tool could not read a part of it, or would compute it wrongly; the first reason is told.
    """
    for (component, module), reason in unsupported(components, family, tool).items():
        raise BadLora(
            f"{component}.{module}: {reason}. Leave such modules out with --leave-out, or use --flatten."
        )
    if tool is DIFFUSERS or family is None:
        if tool is not DIFFUSERS:
            raise BadLora(
                f"The family of the LoRA is unknown, so {tool.name}'s names are too. Say it with --family."
            )
        return to_diffusers(_fused(components, family) if family else components)
    names, flat = family_keys(family), {}
    peft = tool.peft_in(names.family)
    for component, adapter in components.items():
        for name, change in _by_key(component, adapter, names, tool).items():
            endings = keys.encode(change, peft=peft, norms=tool.norms)
            if clash := {f"{name}.{ending}" for ending in endings} & flat.keys():
                raise BadLora(f"Two modules would both be written as {clash.pop()}. Leave one of them out.")
            flat |= {f"{name}.{ending}": tensor for ending, tensor in endings.items()}
    return flat


def _fused_name(module: str, names: FamilyKeys, tool: Tool) -> str | None:
    """What the tool calls the fused weight that ``module`` is a part of; None where it knows none."""
    match = names.table.find(module, KeyStyle("", "diffusers"))
    if match is None or len(match.row.modules) == 1:
        return None
    if tool is DIFFUSERS:  # it fuses q, k and v itself when a LoKr asks for that
        return match.row.fused_name.format(*match.numbers) or None if names.family in FUSED else None
    styles = (tool.writes[names.family], *tool.reads[names.family])
    style = next((style for style in styles if style.naming == "native"), None)
    return style and style.render(names.table.name_of(KeyMatch(match.row, None, match.numbers), "native"))


def _fused(
    components: Mapping[str, Mapping[str, WeightDelta]], family: str
) -> dict[str, dict[str, WeightDelta]]:
    """The rows of each LoKr as the whole that they are of, where diffusers has a name for it."""
    names, fused = family_keys(family), {}
    for component, adapter in components.items():
        deltas = fused.setdefault(component, {})
        for module, change in adapter.items():
            name = _fused_name(module, names, DIFFUSERS) if isinstance(change, LokrRows) else None
            deltas[name or module] = change.whole if name and isinstance(change, LokrRows) else change
    return fused


def _by_key(
    component: str, adapter: Mapping[str, WeightDelta], names: FamilyKeys, tool: Tool
) -> dict[str, WeightDelta]:
    modules: dict[str, WeightDelta] = {}
    fused: dict[tuple[KeyEntry, tuple[str, ...]], dict[int, WeightDelta]] = {}
    if component != names.component:
        style = tool.text[names.family][component][0]
        return {style.render(canonical(component, module)): change for module, change in adapter.items()}
    for module, change in adapter.items():
        match = names.table.find(module, KeyStyle("", "diffusers"))
        if match is None:
            raise BadLora(
                f"{module} is no module of {names.family} that {tool.name} could be told. Leave it out."
            )
        name = _fused_name(module, names, tool) if isinstance(change, LokrRows) else None
        if name and isinstance(change, LokrRows):
            modules[name] = change.whole
            continue
        style = _style_for(change, match, names, tool)
        if style.naming == "native" and len(match.row.modules) > 1:
            fused.setdefault((match.row, match.numbers), {})[match.member or 0] = change
            continue
        if style.naming == "native" and match.row.swaps(change.shape):
            change = qkv.swap_halves(change)
        modules[style.render(names.table.name_of(match, style.naming))] = change
    style = tool.writes[names.family]
    for (row, numbers), members in fused.items():
        whole = qkv.fuse(row, [members.get(n) for n in range(len(row.modules))])
        modules[style.render(names.table.name_of(KeyMatch(row, None, numbers), "native"))] = whole
    return modules


def _style_for(change: WeightDelta, match: KeyMatch, names: FamilyKeys, tool: Tool) -> KeyStyle:
    main = tool.writes[names.family]
    is_fused = main.naming == "native" and len(match.row.modules) > 1
    if is_fused and kind(change) in ("LoKr", "DoRA"):
        return tool.unfused.get(names.family, main)
    return main


@dataclass(frozen=True)
class ToolView:
    """A file as a tool sees it."""

    components: dict[str, dict[str, WeightDelta]]
    skipped_modules: tuple[str, ...]
    """Modules that the tool passes over, as the file spells them."""


def decode_as(flat: Mapping[str, Tensor], family: str, tool: Tool) -> ToolView:
    """Read a file by a tool's own rules: only the names that it knows, only the kinds that it computes.

    Raises:
        BadLora: What the tool does read cannot be computed.
    """
    names = family_keys(family)
    styles, text = tool.reads.get(names.family, ()), tool.text.get(names.family, {})
    parts = keys.group_by_module(flat)
    locations = {part.stem: locate(part.stem, names, styles, text) for part in parts}
    rest, usable = [], []
    for part in parts:
        location = locations[part.stem]
        readable = location is not None and not _without_name(location.match, location.style, names, tool)
        if location is not None and location.component == names.component and readable and not tool.kernels:
            readable = "down" not in part.tensors or part.tensors["down"][0, 0].numel() == 1
        if ("dora_scale" if tool.norms == "out" else "magnitude") in part.tensors:
            readable = False  # it would load as the LoRA that it is without its norms
        (usable if readable else rest).append(part)
    components_read = gather(
        usable, {part.stem: location for part in usable if (location := locations[part.stem])}, {}, names
    )
    incorrect = [
        f"{component}.{module}"
        for component, adapter in components_read.items()
        for module, change in adapter.items()
        if kind(change) not in tool.kinds.get(names.family, ())
        or (isinstance(change, Dora) and change.axis != tool.norms)
    ]
    components = {
        c: {m: change for m, change in adapter.items() if f"{c}.{m}" not in incorrect}
        for c, adapter in components_read.items()
    }
    return ToolView(components, (*(part.stem for part in rest), *incorrect))


def _without_name(match: KeyMatch, style: KeyStyle, names: FamilyKeys, tool: Tool) -> bool:
    lacks = tool.lacks.get(names.family)
    if not lacks or (style.naming == "native" and tool is not DIFFSYNTH):
        return False
    return any(re.match(lacks, module) for module in match.modules)
