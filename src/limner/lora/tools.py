"""The tools that read LoRA files, and what is written for each.

How a tool names a family's modules, and which adapters it computes, is in the family's ``lora.py``: facts of
the tool's source, as data, at the version that :data:`TOOLS` says. Nothing here is code of those tools.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from limner.errors import BadLora
from limner.lora import detection, keys
from limner.lora.adapters import Axis, Dora, Lokr, LokrRows, WeightDelta, kind
from limner.lora.detection import locate
from limner.lora.factors import Factors
from limner.lora.formats import canonical, gather, to_diffusers
from limner.models.key_map import FamilyKeys, KeyEntry, KeyMatch, KeyStyle
from limner.models.registry import family_keys


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    source: str
    """Where the facts are from."""
    norms: Axis = "in"
    """The axis of a DoRA's norms that the tool computes rightly; it knows no other name than that form's."""
    kernels: bool = True
    """Whether convolutions with kernels larger than 1 x 1 are computed."""
    endings: str = ""
    """A pattern of all ends of tensors' names that it knows; "" where it knows every one that we do."""


KOHYA_ENDINGS = r"\.(lora_(down|up|mid)\.weight|alpha|dora_scale|hada_w[12]_[ab]|lokr_w[12](_[ab])?)$"
"""kohya's own trainers look for these, and pass over peft's and older ones."""

DIFFUSERS = Tool(
    name="diffusers",
    source="diffusers 0.42.1, whose own lora_state_dict reads every file that is written for it",
    norms="out",
)
COMFYUI = Tool(
    name="comfyui",
    source="ComfyUI 0.33 at 783545f6, comfy/lora.py, utils.py, weight_adapter",
)
SD_SCRIPTS = Tool(
    name="sd-scripts",
    source="sd-scripts at 48d368fa, networks/lora.py, lora_flux.py, lora_sd3.py: create_network_from_weights",
    endings=KOHYA_ENDINGS,
)
MUSUBI = Tool(
    name="musubi",
    source="musubi-tuner at 30c658c4, utils/lora_utils.py: load_safetensors_with_lora_and_fp8",
    endings=KOHYA_ENDINGS,
)
KOHYA = Tool(
    name="kohya",
    source="kohya's form as A1111 and Forge read it: Forge's copy of ComfyUI's key map and adapters",
)
DIFFSYNTH = Tool(
    name="diffsynth",
    source="DiffSynth-Studio 2.1.12 at fed7b18f, diffsynth/utils/lora/general.py, flux.py, sdxl.py",
    kernels=False,
)

TOOLS = {tool.name: tool for tool in (DIFFUSERS, COMFYUI, KOHYA, SD_SCRIPTS, MUSUBI, DIFFSYNTH)}


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
    if tool.name not in names.tools:
        reason = f"{tool.name} has no reader for {names.family}"
        return {(c, m): reason for c, adapter in components.items() for m in adapter}
    reasons = {}
    for component, adapter in components.items():
        mixed = tool in (DIFFUSERS, MUSUBI) and len({kind(change) for change in adapter.values()}) > 1
        for module, change in adapter.items():
            reason = _refusal(component, module, change, names, tool)
            if not reason and mixed and kind(change) != "LoRA":
                reason = f"{tool.name} takes one kind of adapter in a file, and there are LoRAs too"
            if reason:
                reasons[component, module] = reason
        if tool is not DIFFUSERS and component == names.component:
            kept = {module: delta for module, delta in adapter.items() if (component, module) not in reasons}
            reasons |= {(component, module): text for module, text in _formless(kept, names, tool).items()}
    return reasons


def _formless(adapter: Mapping[str, WeightDelta], names: FamilyKeys, tool: Tool) -> dict[str, str]:
    """Modules that are one weight for the tool, and whose kinds cannot be one: module -> reason."""
    rows: dict[tuple[KeyEntry, tuple[str, ...]], dict[str, WeightDelta]] = {}
    for module, change in adapter.items():
        match = names.table.find(module, KeyStyle("", "diffusers"))
        if match and (len(match.row.modules) > 1 or match.row.halves_swapped):
            rows.setdefault((match.row, match.numbers), {})[module] = change
    reasons = {}
    for members in rows.values():
        if all(isinstance(change, Factors) for change in members.values()):
            continue
        try:
            _by_key(names.component, members, names, tool)
        except BadLora as error:
            reasons |= dict.fromkeys(members, f"{tool.name}: {error}".removesuffix(" Use --flatten."))
    return reasons


def _refusal(component: str, module: str, change: WeightDelta, names: FamilyKeys, tool: Tool) -> str:
    rules = names.tools[tool.name]
    if component != names.component and component not in rules.text:
        return f"{tool.name} reads no {component} of {names.family}"
    if kind(change) not in rules.kinds:
        return f"{tool.name} reads no {kind(change)} for {names.family}"
    if component == names.component:
        nameless = rules.lacks and re.match(rules.lacks, module)
        if nameless and (rules.writes.naming != "native" or tool is not COMFYUI):
            return f"{tool.name} has no name for it"
    if not tool.kernels and isinstance(change, Factors) and change.down[0, 0].numel() > 1:
        return f"{tool.name} multiplies convolutions as if they had no kernel"
    if _is_misread(change, tool):
        return f"{tool.name} takes norms along the inputs of a single row for norms along its outputs"
    if isinstance(change, LokrRows) and _fused_name(module, names, tool):
        return ""
    try:
        keys.encode(change, peft=rules.peft, norms=tool.norms)
    except BadLora as error:
        return f"{tool.name}: {error}".removesuffix(".")
    return ""


def _is_misread(change: WeightDelta, tool: Tool) -> bool:
    """Whether the shape of a DoRA's norms tells a tool of LyCORIS' form another axis than is meant."""
    return isinstance(change, Dora) and change.axis == tool.norms == "in" and change.shape[0] == 1


def encode_for(
    components: Mapping[str, Mapping[str, WeightDelta]], family: str | None, tool: Tool
) -> dict[str, Tensor]:
    """The tensors of a file for a tool.

    Raises:
        BadLora: The tool could not read a part of it, or would compute it wrongly; the first reason is told.
    """
    for (component, module), reason in unsupported(components, family, tool).items():
        start = f"{component}.{module}: {reason.removesuffix('.')}"
        raise BadLora(
            f"{start}. Use another --to, leave such modules out with --leave-out, or use --flatten."
        )
    if tool is DIFFUSERS or family is None:
        if tool is not DIFFUSERS:
            raise BadLora(
                f"The family of the LoRA is unknown, so {tool.name}'s names are too. Say it with --family."
            )
        return to_diffusers(_fused(components, family) if family else components)
    names, flat = family_keys(family), {}
    peft = names.tools[tool.name].peft
    for component, adapter in components.items():
        for name, change in _by_key(component, adapter, names, tool).items():
            endings = keys.encode(change, peft=peft, norms=tool.norms)
            if clash := {f"{name}.{ending}" for ending in endings} & flat.keys():
                raise BadLora(f"Two modules would both be written as {clash.pop()}. Leave one of them out.")
            flat |= {f"{name}.{ending}": tensor for ending, tensor in endings.items()}
    return flat


def _fused_name(module: str, names: FamilyKeys, tool: Tool) -> str | None:
    """What the tool calls the fused weight that ``module`` is a part of; None where it knows none."""
    rules, match = names.tools[tool.name], names.table.find(module, KeyStyle("", "diffusers"))
    if match is None or len(match.row.modules) == 1:
        return None
    if tool is DIFFUSERS:  # it fuses q, k and v itself when a LoKr asks for that
        return match.row.fused_name.format(*match.numbers) or None if rules.fuses else None
    styles = (rules.writes, *rules.reads)
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
        style = names.tools[tool.name].text[component][0]
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
            change = detection.swap_halves(change)
        modules[style.render(names.table.name_of(match, style.naming))] = change
    style = names.tools[tool.name].writes
    for (row, numbers), members in fused.items():
        whole = detection.fuse(row, [members.get(n) for n in range(len(row.modules))])
        modules[style.render(names.table.name_of(KeyMatch(row, None, numbers), "native"))] = whole
    return modules


def _style_for(change: WeightDelta, match: KeyMatch, names: FamilyKeys, tool: Tool) -> KeyStyle:
    rules = names.tools[tool.name]
    is_fused = rules.writes.naming == "native" and len(match.row.modules) > 1
    if is_fused and rules.unfused_style and isinstance(change, Lokr | LokrRows | Dora):
        return rules.unfused_style
    return rules.writes


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
    rules = names.tools.get(tool.name)
    if rules is None:
        return ToolView({}, tuple(part.stem for part in keys.group_by_module(flat)))
    parts = keys.group_by_module(flat)
    more = [style for pattern, style in rules.more_reads if any(re.search(pattern, key) for key in flat)]
    reads = (*rules.reads, *more)
    locations = {part.stem: locate(part.stem, names, reads, rules.text) for part in parts}
    rest, usable = [], []
    foreign = keys.stems(key for key in flat if not re.search(tool.endings, key))
    for part in parts:
        location = locations[part.stem]
        readable = location is not None and not _without_name(location.match, location.style, names, tool)
        if location is not None and location.component == names.component and readable and not tool.kernels:
            readable = "down" not in part.tensors or part.tensors["down"][0, 0].numel() == 1
        readable = readable and part.stem not in foreign
        if ("dora_scale" if tool.norms == "out" else "magnitude") in part.tensors:
            readable = False  # it would load as the LoRA that it is without its norms
        (usable if readable else rest).append(part)
    if rules.needs_alpha and (bare := [part.stem for part in usable if "alpha" not in part.tensors]):
        raise BadLora(f"{tool.name} stops at a module without alpha, the first is {bare[0]}.")
    components_read = gather(
        usable, {part.stem: location for part in usable if (location := locations[part.stem])}, {}, names
    )
    incorrect = [
        f"{component}.{module}"
        for component, adapter in components_read.items()
        for module, change in adapter.items()
        if kind(change) not in rules.kinds
        or (isinstance(change, Dora) and change.axis != tool.norms)
        or _is_misread(change, tool)
    ]
    components = {
        c: {m: change for m, change in adapter.items() if f"{c}.{m}" not in incorrect}
        for c, adapter in components_read.items()
    }
    return ToolView(components, (*(part.stem for part in rest), *incorrect))


def _without_name(match: KeyMatch, style: KeyStyle, names: FamilyKeys, tool: Tool) -> bool:
    lacks = names.tools[tool.name].lacks
    if not lacks or (style.naming == "native" and tool is COMFYUI):
        return False
    return any(re.match(lacks, module) for module in match.modules)
