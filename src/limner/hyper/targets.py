"""Which layers a predicted LoRA has: their names and sizes, and one hash that tells bases apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from limner.errors import BadRecipe
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


def fingerprint(targets: Sequence[Target]) -> str:
    """SHA-256 over names and sizes, in order of names: equal for bases that take the same LoRA."""
    lines = sorted(f"{target.name} {target.inputs} {target.outputs}\n" for target in targets)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
