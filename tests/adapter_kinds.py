"""Adapters of every kind on small layers, and the weight that each makes."""

from typing import Any

import torch
from torch import Tensor, nn

from limner.lora.adapters import Dora, to_lora
from limner.lora.keys import ModuleTensors
from limner.nn.layers import lora
from limner.nn.layers.kinds import kind_of

CASES: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora"},
    "loha": {"name": "loha"},
    "lokr": {"name": "lokr"},
    "lokr-factor": {"name": "lokr", "factor": 2},
    "lokr-full": {"name": "lokr", "factor": 4, "full_matrix": True},
    "dora": {"name": "dora"},
}
ROWS = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2))


def layer(kernel: int = 0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Conv2d(8, 12, kernel, stride=2, padding=kernel // 2) if kernel else nn.Linear(24, 16)


def inputs(kernel: int = 0) -> Tensor:
    return (IMAGES if kernel else ROWS).clone().requires_grad_()


def attached(case: str, kernel: int = 0, *, rank: int = 2, alpha: float = 3.0, **more: Any) -> nn.Sequential:
    net = nn.Sequential(layer(kernel))
    options = {"dropout": 0.0, "seed": 4} | more
    lora.attach(net, ["0"], rank=rank, alpha=alpha, kind=kind_of(**CASES[case]), **options)
    return net


def moved(net: nn.Module) -> nn.Module:
    """Every factor away from where it begins."""
    for number, factor in enumerate(lora.trained(net)):
        nn.init.normal_(factor, std=0.4, generator=torch.Generator().manual_seed(number))
        if factor.dim() == 1:  # magnitudes are lengths
            factor.data.abs_().add_(0.5)
    return net


def weight_of(net: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    """The changed weight as the file's own algebra has it."""
    adapter = lora.attached(net)["0"]
    delta = ModuleTensors("0", adapter.exported()).delta(kernel=adapter.kernel)
    base = adapter.weight.detach().double()
    whole = delta.over(base) if isinstance(delta, Dora) else base + to_lora(delta).dense().view(base.shape)
    return whole.to(dtype)
