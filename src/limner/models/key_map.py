"""What files call the modules of a family: key maps from one naming to another, and what each tool reads.

Facts, as data. Each family's folder has a ``lora.py`` with one ``LORA``; ``limner.lora`` reads and writes
files by it. The tools themselves, with the versions that these facts are from, are in ``limner.lora.tools``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from limner.models.facts import FamilyFacts


Naming = Literal["diffusers", "native", "processor"]
"""diffusers' module names; those of the model's authors; those of attention processors, in which LoRAs were
before peft."""

GROUP = r"(\d+)"
ATTENTION = re.compile(r"\.(?=to_[qkvo])")


@dataclass(frozen=True)
class KeyEntry:
    """One weight of the authors' model, and the module or modules that diffusers makes of it."""

    modules: tuple[str, ...]
    """diffusers' names; ``{}`` stands for a number."""
    native: str
    """The authors' name, with as many ``{}``."""
    shares: tuple[int, ...] = (1,)
    """Heights of the modules within the authors' weight, from the top, relative to each other."""
    halves_swapped: bool = False
    """The halves of its rows stand the other way round: (shift, scale) and (scale, shift). Only where there
    are two rows per column: a modulation of more than a shift and a scale stands alike in both."""
    fused_name: str = ""
    """What diffusers calls the authors' whole weight once it is fused (``fuse_qkv_projections``)."""

    def swaps(self, shape: tuple[int, int]) -> bool:
        """Whether halves must be swapped between the namings, of a weight of that shape (rows, columns)."""
        return self.halves_swapped and shape[0] == 2 * shape[1]


@dataclass(frozen=True)
class KeyMatch:
    """Where a name was found."""

    row: KeyEntry
    member: int | None
    """Which of the row's modules; None for the authors' whole weight."""
    numbers: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The row's modules in diffusers' names, numbers filled in."""
        return tuple(name.format(*self.numbers) for name in self.row.modules)


@dataclass(frozen=True)
class KeyStyle:
    """How a name stands in a file: prefix, naming, and whether dots became underscores."""

    prefix: str
    naming: Naming
    flat: bool = False

    def render(self, name: str) -> str:
        """A dotted name of this naming, as the file has it."""
        return self.prefix + (name.replace(".", "_") if self.flat else name)


@dataclass(frozen=True)
class KeyMap:
    """All rows of one part of a family."""

    rows: tuple[KeyEntry, ...] = field(repr=False)

    def find(self, name: str, style: KeyStyle) -> KeyMatch | None:
        """The place of ``name`` in a file, if it begins with the prefix and names a row of this table."""
        if not name.startswith(style.prefix):
            return None
        bare = name[len(style.prefix) :]
        for text, row, member in _names(self.rows, style.naming, style.flat).get(_digitless(bare), ()):
            if groups := _pattern(text).fullmatch(bare):
                return KeyMatch(row, member, groups.groups())
        return None

    def name_of(self, match: KeyMatch, naming: Naming) -> str:
        """The dotted name of a place. A row of several modules needs a member, but for the authors."""
        if naming == "native":
            return match.row.native.format(*match.numbers)
        name = match.row.modules[match.member or 0].format(*match.numbers)
        return _processor(name) if naming == "processor" else name


def _processor(name: str) -> str:
    return ATTENTION.sub(".processor.", name).removesuffix(".0" if ".to_out." in name else "\0")


def _digitless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _names_of(row: KeyEntry, naming: Naming) -> Iterator[tuple[str, int | None]]:
    if naming == "native":
        yield row.native, None if len(row.modules) > 1 else 0
    else:
        for member, name in enumerate(row.modules):
            yield (_processor(name) if naming == "processor" else name), member
        if row.fused_name and naming == "diffusers":
            yield row.fused_name, None


@cache
def _names(
    rows: tuple[KeyEntry, ...],
    naming: Naming,
    flat: bool,  # noqa: FBT001  a key of a cache
) -> dict[str, list[tuple[str, KeyEntry, int | None]]]:
    index: dict[str, list[tuple[str, KeyEntry, int | None]]] = {}
    for row in rows:
        for template, member in _names_of(row, naming):
            text = template.replace(".", "_") if flat else template
            index.setdefault(_digitless(text.replace("{}", "0")), []).append((text, row, member))
    return index


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(GROUP.join(re.escape(part) for part in name.split("{}")))


QKV = (1, 1, 1)


def unchanged(*names: str) -> tuple[KeyEntry, ...]:
    """Entries of modules that are called alike in both namings."""
    return tuple(KeyEntry((name,), name) for name in names)


def entries(names: Mapping[str, str], *, before: str = "", native: str = "") -> tuple[KeyEntry, ...]:
    """Entries of one module each, from diffusers' name to the authors', behind a prefix on each side."""
    return tuple(KeyEntry((before + name,), native + other) for name, other in names.items())


def fused(
    before: str, native: str, names: Iterable[str] = ("to_q", "to_k", "to_v"), whole: str | None = None
) -> KeyEntry:
    """Three modules that the authors keep as one weight, and what diffusers calls it once it is fused."""
    name = "" if whole is None else f"{before}.{whole}"
    return KeyEntry(tuple(f"{before}.{name}" for name in names), native, QKV, fused_name=name)


def flat(prefix: str, naming: Naming = "native") -> KeyStyle:
    """Names with underscores for dots, as kohya's tools write them."""
    return KeyStyle(prefix, naming, flat=True)


def dotted(prefix: str, naming: Naming = "diffusers") -> KeyStyle:
    """Names as they are, behind a prefix."""
    return KeyStyle(prefix, naming)


SOFTWARE = "Limner"
"""What the metadata of our own LoRA files begins with under ``software``."""

ALL_KINDS = ("LoRA", "LoHa", "LoKr", "DoRA", "DoRA of LoHa", "DoRA of LoKr")


@dataclass(frozen=True, kw_only=True)
class ToolKeys:
    """How one tool names the modules of one family, and which adapters it computes."""

    writes: KeyStyle
    """How the denoiser's modules are written for it."""
    reads: tuple[KeyStyle, ...]
    """Every style of them that it takes."""
    more_reads: tuple[tuple[str, KeyStyle], ...] = ()
    """Further styles that it takes where a name in the file matches a pattern: (pattern, style)."""
    text: Mapping[str, tuple[KeyStyle, ...]] = field(default_factory=dict)
    """Text encoder -> styles that it takes; the first is written."""
    kinds: tuple[str, ...] = ALL_KINDS
    """Adapters that it computes rightly."""
    peft: bool = False
    """Whether lora_A and lora_B are written without alpha; else lora_down, lora_up and alpha = rank."""
    unfused_style: KeyStyle | None = None
    """Style of modules one by one, for adapters that cannot be fused; None where all can."""
    fuses: bool = False
    """Whether it fuses q, k and v itself when a LoKr is of all three (diffusers'
    ``_maybe_fuse_qkv_projections_for_lokr``)."""
    lacks: str = ""
    """A pattern of diffusers' module names that it has no name for when they are so written."""
    needs_alpha: bool = False
    """Whether it raises where a module has no alpha, in place of a scale of 1."""


@dataclass(frozen=True, kw_only=True)
class FamilyKeys:
    """What LoRA files of one family may call its modules."""

    facts: "FamilyFacts"
    table: KeyMap = field(default=KeyMap(()), repr=False)
    """The denoiser's modules, in diffusers' names and in the authors'."""
    processors: KeyMap = field(default=KeyMap(()), repr=False)
    """Layers of LoRAs in the authors' attention processors, whose names take the place of the authors'."""
    text: Mapping[str, KeyMap] = field(default_factory=dict, repr=False)
    """Text encoder -> its modules."""
    text_styles: Mapping[str, tuple[KeyStyle, ...]] = field(default_factory=dict, repr=False)
    """Text encoder -> how files may name its modules, whatever wrote them."""
    tools: Mapping[str, ToolKeys] = field(repr=False)
    """Tool -> how it names the modules. A tool that is left out has no reader for the family."""
    more_pipelines: tuple[str, ...] = ()
    """Further pipelines of diffusers whose LoRA files are the same; the first reads such files instead."""
    base_names: tuple[str, ...] = ()
    """Beginnings of what metadata calls its bases, in lower case."""
    depths: tuple[int, ...] = ()
    """Numbers of ``transformer_blocks`` of the published models."""
    shapes: Mapping[str, tuple[tuple[int | None, int | None], ...]] = field(default_factory=dict, repr=False)
    """Ending of a module's name -> (rows, columns) that it has in the published models, None for any: what
    tells families apart that share names. A module that is not here may have any shape."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Ending of a module's name -> side of its kernel, of the convolutions; what is not here is linear."""
    taken_for: str = ""
    """An older family with the same names and shapes: of it is a file that does not say of which it is."""

    def kernel(self, module: str) -> tuple[int, ...]:
        """Height and width of the kernel of ``module``; () of a linear layer."""
        side = next((side for end, side in self.kernels.items() if f".{module}".endswith(f".{end}")), None)
        return () if side is None else (side, side)

    def has_shape(self, module: str, shape: tuple[int, int]) -> bool:
        """Whether ``module`` may have that many rows and columns in a published model."""
        sizes = [sizes for end, sizes in self.shapes.items() if f".{module}".endswith(f".{end}")]
        return not sizes or any(
            rows in (None, shape[0]) and columns in (None, shape[1]) for rows, columns in sizes[0]
        )

    @property
    def family(self) -> str:
        """Its name."""
        return self.facts.name

    @property
    def component(self) -> str:
        """What diffusers calls the denoiser."""
        return self.facts.denoiser

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Diffusers' pipelines of the family; the first reads its LoRA files."""
        return (*self.more_pipelines, self.facts.pipeline)


JOINT_ATTENTION = (
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
)
"""Layers of joint attention, all of them as wide as the model."""

CLIP_L = (
    dotted("text_encoder."),
    dotted("text_encoders.clip_l.transformer."),
    dotted("clip_l."),
    dotted("lora_te."),
    dotted("lora_te1."),
    flat("lora_te_", "diffusers"),
    flat("lora_te1_", "diffusers"),
)
CLIP_G = (
    dotted("text_encoder_2."),
    dotted("text_encoders.clip_g.transformer."),
    flat("lora_te2_", "diffusers"),
    dotted("clip_g."),
    dotted("lora_te2."),
)
T5 = (
    dotted("text_encoders.t5xxl.transformer."),
    flat("lora_te3_", "diffusers"),
    dotted("t5."),
    dotted("t5xxl."),
    dotted("lora_te3."),
)

KOHYA_CLIP_L = (flat("lora_te1_"), flat("lora_te_"))
KOHYA_CLIP_G = (flat("lora_te2_"),)
KOHYA_T5 = (flat("lora_te3_"), flat("lora_te2_"))

BFL_COMFYUI = (
    flat("lora_unet_"),
    dotted("diffusion_model.", "native"),
    *(dotted(prefix) for prefix in ("transformer.", "")),
    *(flat(prefix, "diffusers") for prefix in ("lycoris_", "lora_transformer_")),
)
"""What ComfyUI takes of LoRAs on Black Forest Labs' models."""

UNET_COMFYUI = (
    flat("lora_unet_"),
    dotted("diffusion_model.", "native"),
    *(flat(prefix, "diffusers") for prefix in ("lora_unet_", "lycoris_")),
    *(KeyStyle(prefix, "processor") for prefix in ("unet.", "")),
)
"""What ComfyUI takes of LoRAs on Stable Diffusion's UNets."""


def diffusers_keys(
    component: str, *text_encoders: str, kinds: tuple[str, ...] = ("LoRA", "DoRA")
) -> ToolKeys:
    """Diffusers' own form: every component under its own name."""
    style = dotted(f"{component}.")
    text = {encoder: (dotted(f"{encoder}."),) for encoder in text_encoders}
    return ToolKeys(writes=style, reads=(style,), text=text, kinds=kinds, peft=True)


def kohya_keys(text: Mapping[str, tuple[KeyStyle, ...]] | None = None) -> ToolKeys:
    """sd-scripts: the authors' names behind ``lora_unet_``."""
    return ToolKeys(writes=flat("lora_unet_"), reads=(flat("lora_unet_"),), text=text or {})


def scripts_keys(
    naming: Naming,
    text: Mapping[str, tuple[KeyStyle, ...]] | None = None,
    lacks: str = "",
    *,
    needs_alpha: bool = False,
) -> ToolKeys:
    """sd-scripts: names of its model's own modules, and plain LoRAs only.

    Its ``networks/lora*.py`` take a DoRA for the LoRA that it is without its norms, make no module of a LoHa
    or LoKr, and pass over some layers outside the blocks (``lacks``). Only ``lora.py``, which is for U-Nets,
    does without alpha.
    """
    style = flat("lora_unet_", naming)
    return ToolKeys(
        writes=style,
        reads=(style,),
        text=text or {},
        kinds=("LoRA",),
        lacks=lacks,
        needs_alpha=needs_alpha,
    )


def musubi_keys(naming: Naming) -> ToolKeys:
    """musubi-tuner as it generates: every weight by its name; DoRA's norms are passed over there."""
    style = flat("lora_unet_", naming)
    return ToolKeys(writes=style, reads=(style,), kinds=("LoRA", "LoHa", "LoKr"))


def diffsynth_keys(writes: str) -> ToolKeys:
    """DiffSynth-Studio: diffusers' names of the denoiser, with and without a prefix, plain LoRAs only."""
    reads = (dotted("diffusion_model."), dotted(""))
    return ToolKeys(writes=dotted(writes), reads=reads, kinds=("LoRA",), peft=True)


def by_either_name(
    text: Mapping[str, tuple[KeyStyle, ...]], *encoders: str
) -> Mapping[str, tuple[KeyStyle, ...]]:
    """The same styles, and for some encoders diffusers' name besides."""
    return {
        encoder: (*styles, dotted(f"{encoder}.")) if encoder in encoders else styles
        for encoder, styles in text.items()
    }
