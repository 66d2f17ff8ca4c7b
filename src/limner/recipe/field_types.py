"""Types that several keys of the recipe have: paths, sizes of memory, lists of names, choices."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from limner.errors import BadRecipe
from limner.recipe.size import parse_size

ConceptType = Literal["subject", "face", "object", "style"]


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


PathField = Annotated[Path, Field(strict=False), AfterValidator(_no_nul)]
Size = Annotated[str, Field(json_schema_extra={"format": "size"}), AfterValidator(_possible_size)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
Tracker = Literal["tensorboard", "wandb", "trackio"]
Tool = Literal["diffusers", "comfyui", "kohya", "sd-scripts", "musubi", "diffsynth"]
