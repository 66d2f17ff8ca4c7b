"""One file per model family, each naming one ``FAMILY``. Imported only when asked for."""

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from limner.errors import BadBase
from limner.models.single_file import look

if TYPE_CHECKING:
    from limner.models.family import Family

KNOWN = {
    "Flux2KleinPipeline": "limner.models.flux2",
    "FluxPipeline": "limner.models.flux",
    "QwenImagePipeline": "limner.models.qwen_image",
    "StableDiffusion3Pipeline": "limner.models.sd3",
    "StableDiffusionPipeline": "limner.models.sd15",
    "StableDiffusionXLPipeline": "limner.models.sdxl",
    "ZImagePipeline": "limner.models.z_image",
}
"""Class in ``model_index.json`` -> package of the family."""


def family_of(pipeline: str) -> "Family":
    """The family whose bases say ``pipeline`` in their ``model_index.json``.

    Raises:
        BadBase: No family here has that pipeline.
    """
    if pipeline not in KNOWN:
        raise BadBase(f"The base is a {pipeline!r}; Limner trains {', '.join(sorted(KNOWN))}.")
    return importlib.import_module(f"{KNOWN[pipeline]}.family").FAMILY


def kind_of(base: str) -> str:
    """Which presets suit a base, as far as its name or its folder tells, without fetching; else "flux"."""
    if base == "glyph":
        return base
    index = Path(base).expanduser() / "model_index.json"
    try:
        if index.parent.is_file():
            return KNOWN[look(index.parent).pipeline].rpartition(".")[2]
        own = index.with_name("limner.json")
        if own.is_file() and json.loads(own.read_text(encoding="utf-8")).get("name") == "glyph":
            return "glyph"  # a full fine-tune of it
        pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError, BadBase):  # no folder, or one that is told when it is opened
        names = sorted((path.rpartition(".")[2].replace("_", "-") for path in KNOWN.values()), key=len)
        return next((name for name in reversed(names) if base.startswith(name)), "flux")
    return KNOWN.get(pipeline, "limner.models.flux").rpartition(".")[2].replace("_", "-")
