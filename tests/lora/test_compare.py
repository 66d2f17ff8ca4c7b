import pytest
import torch

from limner.errors import BadLora
from limner.lora.compare import difference, require_equal
from limner.lora.factors import Factors
from loras import dora, factors, loha, lokr


def check(found, wished, dtype=torch.float32) -> float:
    return require_equal("f", "reader", {"unet": found}, {"unet": wished}, dtype)


def test_equal_is_equal() -> None:
    all_kinds = {"a": factors(), "b": loha(), "c": lokr(), "d": dora()}
    assert check(all_kinds, all_kinds) == 0


def test_the_same_change_in_other_factors_is_equal() -> None:
    one = factors()
    assert check({"a": Factors(one.down * 2, one.up / 2)}, {"a": one}) < 1e-7
    assert check({"a": loha().to_lora()}, {"a": loha()}) < 1e-6


@pytest.mark.parametrize(
    ("found", "wished", "reason"),
    [
        ({}, {"a": factors()}, "reads 1 modules otherwise, the first is unet.a"),
        ({"a": factors(), "b": factors()}, {"a": factors()}, "the first is unet.b"),
        ({"a": factors(seed=1)}, {"a": factors()}, "% off when read as"),
        ({"a": factors(6)}, {"a": factors()}, "inf% off"),
        ({"a": dora(seed=1)}, {"a": dora()}, "% off when read as"),
        ({"a": dora(axis="in")}, {"a": dora()}, "inf% off"),
        ({"a": factors()}, {"a": dora()}, "inf% off"),
    ],
)
def test_what_differs_is_refused(found, wished, reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        check(found, wished)


def test_a_zero_may_be_lost() -> None:
    zero = Factors(torch.ones(1, 8), torch.zeros(8, 1))
    assert check({"a": factors()}, {"a": factors(), "b": zero}) == 0
    assert difference(zero, zero, torch.Generator()) == 0
