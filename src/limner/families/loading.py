"""Models of a base: loaded one at a time from safetensors, or as weightless skeletons."""

import importlib
from typing import Any

import torch
from torch import nn

from limner.errors import BadBase
from limner.families.base import Family
from limner.families.source import Source


def precision_of(family: Family, part: str, dtype: torch.dtype) -> torch.dtype:
    """What a part runs in: the run's precision, unless the family keeps it in fp32."""
    return torch.float32 if part in family.full_precision else dtype


def fingerprint(family: Family, source: Source, part: str, dtype: torch.dtype) -> str:
    """Identity of a part for cache addresses: its files and its precision."""
    if part.startswith("tokenizer"):
        return source.fingerprint(part, "")
    return source.fingerprint(part, str(precision_of(family, part, dtype)).removeprefix("torch."))


def load(family: Family, source: Source, part: str, *, dtype: torch.dtype, device: torch.device) -> Any:
    """A tokenizer, or a frozen model in evaluation mode on ``device``.

    Raises:
        BadBase: Files are missing or do not fit the class.
    """
    hush()
    library, kind = family.library(part)
    cls = getattr(importlib.import_module(library), kind)
    source.weights(part)
    folder = source.root / part
    try:
        if part.startswith("tokenizer"):
            return cls.from_pretrained(folder)
        wanted = precision_of(family, part, dtype)
        model = cls.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=wanted)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise BadBase(
            f"{source.name}: {part}/ cannot be loaded: {_first_line(error)}. Copy the base again."
        ) from error
    return model.to(device).requires_grad_(requires_grad=False).eval()


def skeleton(family: Family, source: Source, part: str, *, dtype: torch.dtype) -> nn.Module:
    """A model with true shapes and no weights, on the meta device, from its config alone."""
    library, kind = family.library(part)
    cls = getattr(importlib.import_module(library), kind)
    with torch.device("meta"):
        if library == "diffusers":
            model = cls.from_config(source.config(part))
        else:
            model = cls(cls.config_class.from_dict(source.config(part)))
    nn.Module.to(model, precision_of(family, part, dtype))  # diffusers' own `to` warns even of empty lists
    return model.requires_grad_(requires_grad=False).eval()


def hush() -> None:
    """Keep the libraries' progress bars and advice off the terminal: errors reach the user as exceptions."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
