import torch
from torch import nn

from limner.errors import BrokenGraph
from limner.nn import arch
from messages import raises


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model.register_parameter("places", nn.Parameter(torch.arange(3), requires_grad=False))
    return model


def test_everything_that_has_a_gradient_is_trained_in_a_fixed_order():
    model = arch.unfreeze(net())
    assert list(arch.trained_by_name(model)) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert [id(each) for each in arch.trained(model)] == [
        id(each) for each in arch.trained_by_name(model).values()
    ]


def test_weights_in_half_precision_are_refused():
    with raises(BrokenGraph):
        arch.unfreeze(nn.Sequential(nn.Linear(2, 2).bfloat16()))
