import torch
from torch import nn

from limner.errors import BadRecipe
from limner.nn import parameters
from limner.nn.parameters import get_state, load_state
from messages import raises


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_what_was_kept_is_put_back_to_the_bit():
    one, other = parameters.unfreeze(net()), parameters.unfreeze(net())
    load_state(parameters.named(other), get_state(parameters.named(one)))
    assert all(
        torch.equal(a, b) for a, b in zip(parameters.trained(one), parameters.trained(other), strict=True)
    )


def test_a_state_of_another_model_is_refused():
    with raises(BadRecipe):
        load_state(parameters.named(parameters.unfreeze(net())), {"0.weight": torch.zeros(4, 3)})
