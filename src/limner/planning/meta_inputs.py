"""Stand-ins for what only files could tell, so that shapes are known before anything is downloaded."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from limner.assembly.assemble import ModelSpec
from limner.assembly.base import shape_at
from limner.models.clip import CLIP_LENGTH
from limner.models.facts import is_tokenizer
from limner.planning.alike import once


class Longest:
    """A tokenizer by which every caption has as many tokens as are ever kept."""

    def __call__(self, texts: str | Sequence[str], *, max_length: int = CLIP_LENGTH, **_: Any) -> Any:
        """B captions -> ids and mask, (B, max_length), on the CPU."""
        rows = 1 if isinstance(texts, str) else len(texts)
        ids = torch.zeros(rows, max_length, dtype=torch.int64)
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))

    def apply_chat_template(self, _: Any, **__: Any) -> str:
        """No chat: its tokens are counted in."""
        return ""


LARGE = 8192
"""Side in pixels of a control image that becomes as large as any does."""


def inputs(spec: ModelSpec, size: tuple[int, int]) -> dict[str, Any]:
    """What the data gives of one image: stand-ins of true shapes, control images as large as they become.

    Args:
        spec: The base, and how many control images each image has.
        size: (width, height) of the image in pixels.
    """
    sizes = {"image": size}
    if spec.family.controls:
        fits = spec.family.controls.fits(shape_at(spec.source, spec.family).resolution)
        sizes |= {
            f"{name}_{number}": fit.fitted(LARGE, LARGE)
            for number in range(1, spec.controls + 1)
            for name, fit in fits.items()
        }
    blanks = {
        name: torch.empty((1, 3, height, width), dtype=torch.uint8, device="meta")
        for name, (width, height) in sizes.items()
    }
    blanks["mask"] = blanks["image"][:, :1]
    frame = torch.empty((1, 6), dtype=torch.int64, device="meta")
    return {**blanks, "frame": frame, "caption": ("",), "seed": torch.zeros(1, dtype=torch.int64)}


def boundary(spec: ModelSpec, size: tuple[int, int]) -> dict[str, Tensor]:
    """What live units read of one image and its caption: shapes and types, on the meta device.

    Args:
        spec: The base, with its units cut; weights and tokenizers are not needed.
        size: (width, height) of the image in pixels.

    Raises:
        BadBase: A config means nothing.
    """
    values = inputs(spec, size)
    models: dict[str, Any] = {}
    for unit in spec.cut.frozen:
        for name in unit.uses:
            if name not in models:
                models[name] = Longest() if is_tokenizer(name) else spec.skeleton(name)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for name in unit.uses:
                if isinstance(models[name], nn.Module):
                    stack.enter_context(once(models[name]))
            values |= {name: _moved(value) for name, value in unit.run(models, values).items()}
    return {name: values[name] for name in sorted(spec.cut.boundary)}


def _moved(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def batch(inputs: Mapping[str, Tensor], images: int, device: str = "meta") -> dict[str, Tensor]:
    """Room for the values of so many images. Masks hide nothing and are real: units look into them."""
    return {
        name: torch.ones((images, *value.shape[1:]), dtype=torch.bool)
        if value.dtype == torch.bool
        else torch.empty((images, *value.shape[1:]), dtype=value.dtype, device=device)
        for name, value in inputs.items()
    }
