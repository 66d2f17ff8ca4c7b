"""Where a module's name in a file belongs: every way in which files spell the modules of a family."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from limner.models.key_map import KeyMatch, KeyStyle
from limner.models.lora_keys import FamilyKeys

PREFIXES = ("transformer.", "unet.", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
NESTED_PREFIXES = ("transformer.base_model.model.", "unet.base_model.model.", "")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")

DENOISER = (
    *(
        KeyStyle(prefix, naming)
        for prefix in (*PREFIXES, *NESTED_PREFIXES)
        for naming in ("diffusers", "native", "processor")
    ),
    *(KeyStyle(prefix, naming, flat=True) for prefix in FLAT_PREFIXES for naming in ("native", "diffusers")),
)
"""How files may spell modules of a denoiser; the first that fits is taken."""


@dataclass(frozen=True)
class Location:
    """Where a module of a file belongs."""

    component: str
    match: KeyMatch
    style: KeyStyle


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
    for component, styles in (names.text_styles if text is None else text).items():
        for style in styles:
            if match := _match_text(stem, names, component, style):
                return Location(component, match, style)
    for style in denoiser:
        if match := names.table.find(stem, style):
            return Location(names.component, match, style)
    return None


def _match_text(stem: str, names: FamilyKeys, component: str, style: KeyStyle) -> KeyMatch | None:
    """Since transformers 5 there is no level ``text_model``: with and without it are one."""
    if not stem.startswith(style.prefix) or component not in names.text:
        return None
    table = names.text[component]
    level = "text_model_" if style.flat else "text_model."
    longer = style.prefix + level + stem[len(style.prefix) :]
    return table.find(stem, style) or table.find(longer, style)
