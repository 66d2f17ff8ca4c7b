"""Full fine-tuning: every number of a model is trained. The counterpart of ``nn.layers.lora``."""

import torch
from torch import nn

from limner.errors import BrokenGraph


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
