import torch
from torch import nn

from limner.errors import BadRecipe
from limner.nn.layers import full
from limner.nn.parameter_state import kept, put
from messages import raises


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_what_was_kept_is_put_back_to_the_bit():
    one, other = full.release(net()), full.release(net())
    put(full.named(other), kept(full.named(one)))
    assert all(torch.equal(a, b) for a, b in zip(full.trained(one), full.trained(other), strict=True))


def test_a_state_of_another_model_is_refused():
    with raises(BadRecipe):
        put(full.named(full.release(net())), {"0.weight": torch.zeros(4, 3)})
