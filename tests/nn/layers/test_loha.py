"""LoHa beside peft's."""

import pytest
import torch
from peft import LoHaConfig, inject_adapter_in_model
from torch import nn

from adapter_kinds import attached, inputs, layer, moved
from limner.nn.layers import lora
from limner.nn.layers.kinds import Hadamard


@pytest.mark.parametrize("rank", [2, 5])
def test_outputs_and_gradients_are_pefts(rank):
    mine = moved(attached("loha", rank=rank, alpha=3.0))
    config = LoHaConfig(r=rank, alpha=3, target_modules=["0"])  # pyright: ignore[reportCallIssue]
    theirs = inject_adapter_in_model(config, nn.Sequential(layer()))
    ours = lora.attached(mine)["0"].factors()
    peers = [getattr(theirs[0], f"hada_{name}")["default"] for name in ours]  # pyright: ignore
    for factor, peer in zip(ours.values(), peers, strict=True):
        peer.data.copy_(factor.data)
    assert torch.allclose(mine(inputs()), theirs(inputs()), atol=1e-5)
    gradients = (
        torch.autograd.grad(net(inputs()).square().sum(), list(factors))
        for net, factors in ((mine, ours.values()), (theirs, peers))
    )
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_the_weight_is_made_only_where_that_is_cheaper():
    small, large = (lora.attached(attached("loha", rank=rank))["0"] for rank in (3, 4))
    assert isinstance(small, Hadamard) and isinstance(large, Hadamard)
    assert small.is_factored and not large.is_factored  # 9 x (16 + 24) = 360 <= 384 < 640 = 16 x (16 + 24)


def test_first_values_are_those_of_lycoris():
    """LyCORIS: normal of deviation 1, 0.1, 1, and zeros."""
    net = nn.Sequential(nn.Linear(512, 512))
    from limner.nn.layers.kinds import kind_of

    lora.attach(net, ["0"], rank=8, alpha=8.0, dropout=0.0, seed=1, kind=kind_of("loha"))
    deviations = {name: float(p.detach().std()) for name, p in lora.attached(net)["0"].factors().items()}
    assert deviations == pytest.approx({"w1_a": 0.1, "w1_b": 1.0, "w2_a": 0.0, "w2_b": 1.0}, rel=0.05)
