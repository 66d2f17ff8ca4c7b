"""What the tables of the recipe are made of: types that several keys have, and what every table is.

Types are those of paths, sizes of memory, lists of names and choices. A table (:class:`Section`) is frozen,
strict, and wrong in one line.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from limner.errors import BadRecipe
from limner.imports import imported
from limner.recipe import aliases

SIZE = r"(?i)\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?)?\s*"
"""A number and a unit. Without a unit it counts GB."""
POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
LARGEST = 2**50


def parse_size(text: str) -> int:
    """A size in bytes: ``parse_size("12GB") == 12 * 2**30``.

    GB is 2^30 bytes, as on the label of a card (a "12 GB" card has 12,288 MiB), and so is GiB; MB is 2^20.
    A number without a unit counts GB.

    Raises:
        BadRecipe: It is no size, nothing, or more than any machine has.
    """
    match = re.fullmatch(SIZE, text)
    if not match:
        raise BadRecipe(f'{text!r:.60} is no size of memory. Write a number and a unit: "12GB".')
    unit = (match[2] or "g").lower()
    size = float(match[1]) * 1024.0 ** POWERS[unit]
    if not 1 <= size <= LARGEST:
        raise BadRecipe(
            f'{text!r:.60} is {size:.3g} bytes; it must be from 1 byte to 1024 TB, for instance "12GB".'
        )
    return math.floor(size)


def label(size: float) -> str:
    """Bytes of memory in the units of a card's label, 2^30: ``label(12 * 2**30) == "12.0 GB"``."""
    if abs(size) < 2**20:
        return f"{size / 2**10:.0f} kB"
    if abs(size) < 2**30:
        return f"{size / 2**20:.0f} MB"
    return f"{size / 2**30:.1f} GB"


ConceptType = Literal["subject", "face", "object", "style", "concept"]


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("no system has such a path")
    return path


def _possible_size(text: str) -> str:
    if text != "auto":
        try:
            parse_size(text)
        except BadRecipe as error:
            raise ValueError(str(error)) from error  # explain names the key and what it must be
    return text


class PatternTable(dict[str, float]):
    """A table of patterns of module names, in the order of the file. It is not changed once it is made."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  recipes are hashable
        """Of its items, in order."""
        return hash(tuple(self.items()))


def bare_trigger(text: str) -> str:
    """A trigger without line breaks, and without spaces and commas around it, which would hide it."""
    return " ".join(text.split()).strip(" ,;")


TriggerField = Annotated[str, Field(max_length=200), AfterValidator(bare_trigger)]
PathField = Annotated[Path, Field(strict=False), AfterValidator(_no_nul)]
Paths = Annotated[
    tuple[PathField, ...],
    Field(strict=False),
    BeforeValidator(lambda value: (value,) if isinstance(value, str | Path) and str(value) else value or ()),
]
Side = Annotated[int, Field(ge=16, le=8192)]
Resolution = Annotated[
    Side | Annotated[tuple[Side, ...], Field(strict=False, min_length=1)],
    AfterValidator(lambda sides: sides[0] if isinstance(sides, tuple) and len(sides) == 1 else sides),
]
"""One side in pixels, or several; a list of one is that one."""
Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, ...], Field(strict=False)]
Size = Annotated[str, Field(json_schema_extra={"format": "size"}), AfterValidator(_possible_size)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


def _as_text(value: Any) -> Any:
    """Prompts that are tables, as texts with flags."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(
        imported("limner.recipe.prompt_file:flags_of")(item) if isinstance(item, Mapping) else item
        for item in value
    )


Prompts = Annotated[Names, BeforeValidator(_as_text)]
"""Prompts, each with flags or without."""


class OptionTable(dict[str, bool | int | float | str | tuple[float, ...]]):
    """Arguments by name. It is not changed once it is made."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  recipes are hashable
        """Of its items, in order."""
        return hash(tuple(self.items()))


Option = bool | int | float | str | Annotated[tuple[float, ...], Field(strict=False)]
Options = Annotated[dict[Annotated[str, Field(min_length=1)], Option], AfterValidator(OptionTable)]
Pattern = Annotated[str, Field(min_length=1)]
Ranks = Annotated[dict[Pattern, Annotated[int, Field(ge=1, le=4096)]], AfterValidator(PatternTable)]
Rates = Annotated[dict[Pattern, Annotated[float, Field(gt=0, le=1000)]], AfterValidator(PatternTable)]
Tracker = Literal["tensorboard", "wandb", "trackio"]
Tool = Literal["diffusers", "comfyui", "kohya", "sd-scripts", "musubi", "diffsynth"]


class Section(BaseModel):
    """A table of the recipe. However it is built, what it cannot mean is a one-line ``BadRecipe``."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
    )
    section: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            values = aliases.nested(cls.section, values, cls.recipe())
        try:
            return handler(values)
        except ValidationError as error:
            raise BadRecipe(aliases.first_error(cls, cls.section, values, error)) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same with other values; what is derived from them is derived anew."""
        result = super().model_copy(update=update, deep=deep)
        values = vars(result)
        for name in set(values) - set(type(self).model_fields):  # cached properties
            del values[name]
        return result

    @staticmethod
    def recipe() -> "type[Section]":
        """The whole recipe: the section without a name, which tells where a key of another table belongs."""
        return next(kind for kind in Section.__subclasses__() if not kind.section)
