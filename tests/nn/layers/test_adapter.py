"""What adapters have in common. What every kind must do is in ``test_kinds.py``."""

import math

import pytest
import torch
from torch import nn

from limner.nn.layers.adapter import LORA, PAIR, AdapterShape, LowRank, normal, uniform


def test_first_values_are_drawn_as_those_of_layers():
    factor = torch.zeros(64, 256)
    uniform(factor, torch.Generator().manual_seed(0), 256)
    assert float(factor.abs().max()) <= 1 / 16 and float(factor.std()) == pytest.approx(
        1 / 16 / math.sqrt(3), rel=0.05
    )
    normal(factor, torch.Generator().manual_seed(0), 0.1)
    assert float(factor.std()) == pytest.approx(0.1, rel=0.05)


def test_the_scale_is_multiplied_into_one_factor_of_a_copy():
    adapter = LowRank(nn.Linear(6, 4), AdapterShape(2, 0.5), nn.Identity())
    adapter.up.data.fill_(1.0)
    exported = adapter.exported()
    assert set(exported) == {name.ending for name in PAIR.values()}
    assert bool((exported["up"] == 0.5).all())
    exported["up"].zero_()
    assert bool((adapter.up == 1.0).all())


def test_an_adapter_knows_the_weights_of_its_layer():
    linear = LowRank(nn.Linear(6, 4), AdapterShape(2, 1.0), nn.Identity())
    convolution = LowRank(nn.Conv2d(6, 4, 3), AdapterShape(2, 1.0), nn.Identity())
    assert (linear.columns, convolution.columns) == (6, 54)
    assert linear.weight is linear.base.weight and not linear.is_dropping


def test_the_parts_of_a_pair_are_laid_flat():
    pair = LowRank(nn.Linear(6, 4), AdapterShape(2, 0.5), nn.Identity())
    x = torch.randn(2, 3, 6)
    base, inner, up = pair.parts(x, pair.base(x))
    assert [tuple(part.shape) for part in (base, inner, up)] == [(6, 4), (6, 2), (2, 4)]


def test_the_plain_kind_is_a_pair():
    assert isinstance(LORA.linear(nn.Linear(6, 4), AdapterShape(2, 0.5), nn.Identity()), LowRank)
