import torch
from torch import nn
from torch.testing import assert_close

from limner.nn.layers.frozen_pair import FrozenPair, enable
from limner.nn.layers.quantized_linear import freeze


def test_a_linear_layer_and_its_pair_are_one_changed_weight():
    layer, x = nn.Linear(8, 6), torch.randn(2, 3, 8, requires_grad=True)
    down, up = torch.randn(2, 8), torch.randn(6, 2)
    pair = FrozenPair(layer, down, up)
    whole = nn.functional.linear(x, layer.weight + up @ down, layer.bias)
    assert_close(pair(x), whole)
    probe = torch.randn_like(whole)
    assert_close(*(torch.autograd.grad(y, x, probe)[0] for y in (pair(x), whole)))
    enable(pair, enabled=False)
    assert torch.equal(pair(x), layer(x))
    assert not pair.up.requires_grad and not pair.down.requires_grad


def test_a_convolution_keeps_its_stride_and_padding():
    layer, x = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 8, 8)
    down, up = torch.randn(2, 4, 3, 3), torch.randn(6, 2, 1, 1)
    change = (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    whole = nn.functional.conv2d(x, layer.weight + change, layer.bias, 2, 1)
    assert_close(FrozenPair(layer, down, up)(x), whole, rtol=1e-4, atol=1e-5)


def test_beside_a_weight_in_few_bits_the_pair_is_whole():
    """Merged, a change below the rounding of the codes would be lost."""
    net = nn.Sequential(nn.Linear(64, 64, bias=False)).requires_grad_(requires_grad=False)
    freeze(net, ["0"], "int8")
    down, up = torch.randn(1, 64), torch.full((64, 1), 1e-5)
    x = torch.randn(4, 64)
    expected = net(x) + x @ down.T @ up.T
    net[0] = FrozenPair(net[0], down, up)
    assert_close(net(x), expected)
    assert not torch.equal(expected, net[0].layer(x))
