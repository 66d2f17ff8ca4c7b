import pytest
import torch

from limner.errors import BadLora
from limner.lora.factors import Factors, rename_for_model
from messages import raises


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((4, 6), (8, 3)),
        ((4,), (8, 4)),
        ((4, 6), (8, 4, 1, 1)),
        ((4, 6, 3, 3), (8, 4, 3, 3)),
        ((0, 6), (8, 0)),
    ],
)
def test_shapes_must_belong_together(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with raises(BadLora):
        Factors(torch.ones(down), torch.ones(up))


def test_factors_are_float32() -> None:
    with raises(BadLora):
        Factors(torch.ones(4, 6).half(), torch.ones(8, 4))


def test_localise_follows_the_model() -> None:
    factors = Factors(torch.ones(1, 2), torch.ones(2, 1))
    old, new = "text_model.encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc1"
    assert list(rename_for_model({old: factors}, {new})) == [new]
    assert list(rename_for_model({new: factors}, {old})) == [old]
    assert list(rename_for_model({"x": factors}, {"x", "y"})) == ["x"]
    with raises(BadLora):
        rename_for_model({"x": factors, "z": factors}, {"x"})
