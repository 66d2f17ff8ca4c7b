"""What training changes, by name: made trainable, kept in a checkpoint, and put back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, BrokenGraph


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


def unfreeze(model: nn.Module) -> nn.Module:
    """Have every floating-point parameter of ``model`` trained: fp32 masters, or shapes on meta.

    Raises:
        BrokenGraph: A weight is stored in half precision, where small steps are lost in rounding.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point():
            if weight.dtype != torch.float32:
                raise BrokenGraph(
                    f"{name} is {weight.dtype}; what is trained is fp32. Load the model in fp32."
                )
            # mapped files begin anywhere, and products round by how memory is aligned
            weight.data = weight.data.clone()
            weight.requires_grad_()
    return model


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Everything trained, by its name in the files of the model, in a fixed order."""
    return dict(sorted((name, weight) for name, weight in model.named_parameters() if weight.requires_grad))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The same without names."""
    return list(named(model).values())
