"""DoRA beside peft's."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from adapter_kinds import attached, inputs, layer, moved
from limner.nn.layers import lora
from limner.nn.layers.kinds import row_squares
from limner.nn.layers.quantized_linear import freeze


def peers(kernel: int) -> tuple[nn.Module, nn.Module, list[torch.Tensor]]:
    """Ours, peft's with the same factors, and its factors in the order of ours."""
    mine = moved(attached("dora", kernel, rank=2, alpha=3.0))
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True)
    theirs = inject_adapter_in_model(config, nn.Sequential(layer(kernel)))
    state = {name: p.data.clone() for name, p in lora.named(mine).items()}
    factors = []
    parameters = dict(theirs.named_parameters())
    for name, value in state.items():
        peer = parameters[name]
        peer.data.copy_(value.view(peer.shape))
        factors.append(peer)
    return mine, theirs, factors


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_outputs_and_gradients_are_pefts_and_checkpoints_have_its_names(kernel):
    mine, theirs, factors = peers(kernel)
    assert torch.allclose(mine(inputs(kernel)), theirs(inputs(kernel)), atol=1e-5)
    ours = torch.autograd.grad(mine(inputs(kernel)).square().sum(), lora.trained(mine))
    others = torch.autograd.grad(theirs(inputs(kernel)).square().sum(), factors)
    for a, b in zip(ours, others, strict=True):
        assert float((a - b.view(a.shape)).norm()) <= 2e-5 * float(b.norm())


def test_magnitudes_begin_as_the_lengths_of_the_rows():
    magnitude = lora.attached(attached("dora"))["0"].factors()["magnitude"]
    weight = layer().weight
    assert torch.allclose(magnitude, weight.norm(dim=1))  # pyright: ignore


def test_an_empty_row_stays_empty():
    net = nn.Sequential(layer())
    net[0].weight.data[2] = 0  # pyright: ignore
    from limner.nn.layers.kinds import kind_of

    lora.attach(net, ["0"], rank=2, alpha=2.0, dropout=0.0, seed=1, kind=kind_of("dora"))
    y = net(inputs())
    y.sum().backward()
    assert bool(y.isfinite().all()) and bool(lora.trained(net)[-1].grad.isfinite().all())  # pyright: ignore


def test_rows_of_a_quantized_layer_are_measured_as_they_are_computed_with():
    net = nn.Sequential(layer()).requires_grad_(requires_grad=False)
    freeze(net, ["0"], "nf4")
    weight = net[0].dequantize(torch.float32)  # pyright: ignore
    assert torch.allclose(row_squares(net[0]), weight.square().sum(1))
