import pytest
import torch

from limner.errors import BadRecipe
from limner.nn.layers import w8a8
from limner.nn.layers.quantization import quantize
from messages import raises


def test_devices_that_cannot_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with raises(BadRecipe):
        w8a8.require("fp8", torch.device("cuda"))
    with raises(BadRecipe):
        w8a8.require("int8", torch.device("mps"))
    assert w8a8.require("int8", torch.device("cuda")) is None
    assert w8a8.require("fp8", torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_scale_of_each_output_is_folded_into_the_gradient(kind):
    """Outputs a thousand times apart in size: left out of the fold, the small ones would vanish."""
    draw = torch.Generator().manual_seed(0)
    size = torch.logspace(-3, 0, 48)[:, None]
    weight = size * torch.randn(48, 64, generator=draw)
    gradient = torch.randn(32, 48, generator=draw) / size.t()
    stored, scale = quantize(weight, kind)
    made = w8a8.input_gradient(gradient, stored, scale, kind=kind)
    wanted = gradient @ weight
    assert float((made - wanted).norm() / wanted.norm()) < 0.05
    assert made.dtype == gradient.dtype
    assert w8a8.product(made, stored, scale, kind=kind).shape == gradient.shape


def test_cards_of_other_makers_are_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with raises(BadRecipe):
        w8a8.require("fp8", torch.device("cuda"))
