"""Full fine-tuning: every number of a model is trained. Has the verbs of ``nn.lora``, its counterpart."""

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, BrokenGraph


def release(model: nn.Module) -> nn.Module:
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
    return dict(sorted((name, each) for name, each in model.named_parameters() if each.requires_grad))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The same without names."""
    return list(named(model).values())


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training changes, by the names of checkpoints."""
    return {name: weight.detach() for name, weight in named(model).items()}


@torch.no_grad()
def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what :func:`named_state` gave.

    Raises:
        BadRecipe: Names or shapes differ.
    """
    put(named(model), state)


@torch.no_grad()
def put(mine: dict[str, nn.Parameter], state: dict[str, Tensor]) -> None:
    """Copy a state into weights of the same names and shapes.

    Raises:
        BadRecipe: Names or shapes differ.
    """
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    if shapes != {name: weight.shape for name, weight in mine.items()}:
        raise BadRecipe(
            f"The checkpoint trains {len(state)} tensors, this recipe all {len(mine)} of the denoiser, or "
            "their shapes differ. Neither base nor train.method can change within a run; use another --out."
        )
    for name, weight in mine.items():
        weight.copy_(state[name])
