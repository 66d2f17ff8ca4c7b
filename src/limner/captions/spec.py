"""What captions are wanted: for which concept, in which style, with which trigger."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from limner.errors import BadUsage
from limner.models.facts import CaptionStyleName
from limner.models.registry import index_path, recognised
from limner.recipe.fields import bare_trigger

ConceptType = Literal["subject", "face", "object", "style", "concept"]

CONCEPT_TYPES: tuple[str, ...] = get_args(ConceptType)
MAX_VARIANTS = 8
"""Of one image. Each is cached and trained as a text of its own."""


@dataclass(frozen=True)
class CaptionStyle:
    """How captions are written, and how long, in words."""

    name: CaptionStyleName
    min_words: int
    max_words: int


STYLES = {
    "sentences": CaptionStyle("sentences", 15, 70),
    "phrases": CaptionStyle("phrases", 6, 40),
    "brief": CaptionStyle("brief", 1, 14),
    "tags": CaptionStyle("tags", 3, 60),
}
"""FLUX.1, SD 3.5, Qwen-Image and Z-Image read sentences with T5 or a language model (up to 512 tokens). SDXL
and SD 1.5 read CLIP's 77 tokens, about 55 words, and saw alt texts. The embedded base saw "fluent3d style
cat, on a sky blue background"."""


def style_of(base: str) -> CaptionStyle:
    """The style of the captions that a base has learned from.

    Args:
        base: A registered name, a hub id, or a folder in diffusers layout, whose ``model_index.json`` tells.

    Raises:
        BadUsage: It is of no family that is known here.
    """
    index = index_path(Path(base))
    name = base
    if index.is_file():
        try:
            name = str(json.loads(index.read_bytes())["_class_name"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BadUsage(f"{index} names no pipeline. Say how to write with --style.") from error
    if match := recognised(name):
        family, entry = match
        return STYLES[(entry and entry.caption_style) or family.caption_style]
    raise BadUsage(
        f"It is not known which captions {base} learned from. Say it with --style: {', '.join(STYLES)}."
    )


@dataclass(frozen=True, kw_only=True)
class CaptionSpec:
    """What every caption of a set shall be.

    Raises:
        BadUsage: An unknown concept, or a number of variants outside 1..8.
    """

    concept_type: str = "subject"
    style: CaptionStyle = STYLES["sentences"]
    trigger: str = ""
    """Without it, captions are written as if the thing had only its common name."""
    variants: int = 1
    """Captions per image."""
    by_rule: bool = False
    """The captioner takes no instructions, so that the trigger is put in by rule."""

    def __post_init__(self) -> None:
        if self.concept_type not in CONCEPT_TYPES:
            raise BadUsage(
                f'--concept-type is "{self.concept_type}"; it must be one of {", ".join(CONCEPT_TYPES)}.'
            )
        if not 1 <= self.variants <= MAX_VARIANTS:
            raise BadUsage(f"--variants is {self.variants}; it must be 1 to {MAX_VARIANTS}.")
        if len(self.trigger) > 200 or "\n" in self.trigger:
            raise BadUsage("--trigger must be one line of at most 200 characters.")

    @property
    def names_trigger(self) -> bool:
        """Whether the captioner writes the trigger itself. A style's is added by rule, in one role."""
        by_rule = self.by_rule or self.concept_type == "style" or self.style.name == "tags"
        return bool(self.trigger) and not by_rule


def spec_of(
    *,
    concept_type: str = "subject",
    base: str = "glyph",
    style: str | None = None,
    trigger: str | None = None,
    variants: int = 1,
) -> CaptionSpec:
    """What captions must be, of plain values.

    Args:
        concept_type: What the images share.
        base: Captions are written as this base has learned to read them, unless a style is named.
        style: Name of the caption style.
        trigger: Name of what is learned.
        variants: Captions per image.

    Raises:
        BadUsage: A value is unknown.
    """
    if style is not None and style not in STYLES:
        raise BadUsage(f'--style is "{style}"; it must be one of {", ".join(STYLES)}.')
    chosen_style = STYLES[style] if style else style_of(base)
    return CaptionSpec(
        concept_type=concept_type,
        style=chosen_style,
        trigger=bare_trigger(trigger or ""),
        variants=variants,
    )


def add_trigger(caption: str, spec: CaptionSpec) -> str:
    """The caption with the trigger of a style, or of tags, in its place.

    >>> add_trigger("A fox in a forest.", CaptionSpec(concept_type="style", trigger="inkwash"))
    'A fox in a forest, inkwash'
    >>> add_trigger("cat", CaptionSpec(concept_type="style", trigger="inkwash", style=STYLES["brief"]))
    'inkwash style cat'
    >>> add_trigger("1girl, solo", CaptionSpec(trigger="mia", style=STYLES["tags"]))
    'mia, 1girl, solo'
    """
    if not spec.trigger or spec.names_trigger:
        return caption
    if spec.style.name == "tags" or spec.concept_type != "style":
        return f"{spec.trigger}, {caption}"
    if spec.style.name == "brief":
        return f"{spec.trigger} style {caption}"
    return f"{caption.rstrip(' .')}, {spec.trigger}"


def strip_trigger(caption: str, spec: CaptionSpec) -> str:
    """What ``signed`` was given, but for the full stop of a sentence."""
    if not spec.trigger or spec.names_trigger:
        return caption
    bare = caption.removeprefix(f"{spec.trigger}, ").removeprefix(f"{spec.trigger} style ")
    return bare.removesuffix(f", {spec.trigger}")
