"""What training changes, by name: as a checkpoint keeps it, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe


def get_state(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The numbers of trained weights, which share their memory."""
    return {name: weight.detach() for name, weight in weights.items()}


@torch.no_grad()
def load_state(weights: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Copy what :func:`get_state` gave into weights of the same names and shapes.

    Raises:
        BadRecipe: Names or shapes differ.
    """
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise BadRecipe(
            f"The checkpoint trains {len(state)} tensors, this recipe {len(weights)}, or their shapes "
            "differ. Neither the base nor train.method can change within a run, nor can lora.targets, "
            "lora.text_encoders and the ranks of a LoRA; use another --out."
        )
    for name, weight in weights.items():
        weight.copy_(state[name])
