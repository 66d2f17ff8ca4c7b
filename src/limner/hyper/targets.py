"""Which layers a predicted LoRA has: their names and sizes, and one hash that tells bases apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from limner.errors import BadRecipe
from limner.models.family import Family
from limner.models.loading import skeleton
from limner.models.source import Source
from limner.nn.layers import lora
from limner.nn.layers.quantized_linear import QuantizedLinear


@dataclass(frozen=True)
class Target:
    """A linear layer, by its name in diffusers."""

    name: str
    inputs: int
    outputs: int


def targets_of(model: nn.Module, endings: Sequence[str]) -> tuple[Target, ...]:
    """The linear layers of a model that end in one of ``endings``, sorted by name.

    Args:
        model: A denoiser; on the meta device will do.
        endings: As ``lora.targets`` of a recipe has them, such as ``attn.to_q``.

    Raises:
        BadRecipe: An ending matches nothing, or a convolution.
    """
    targets = []
    for name in lora.matching(model, endings):
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear | QuantizedLinear):
            raise BadRecipe(f"{name} is a {type(layer).__name__}; predicted LoRAs are for linear layers.")
        targets.append(Target(name, layer.in_features, layer.out_features))
    return tuple(targets)


def linear_layers(source: Source, family: Family) -> dict[str, Target]:
    """The linear layers of a base's denoiser, by name, from its config alone."""
    model = skeleton(family, source, family.denoiser, dtype=torch.float32)
    return {
        name: Target(name, layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def fingerprint(targets: Sequence[Target]) -> str:
    """SHA-256 over names and sizes, in order of names: equal for bases that take the same LoRA."""
    lines = sorted(f"{target.name} {target.inputs} {target.outputs}\n" for target in targets)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
