import pytest
import torch

from limner.errors import BadUsage
from limner.lora.adapters import Dora, to_lora
from limner.lora.factors import Factors
from limner.lora.resizing import RankRule, resize
from loras import dora, factors, loha
from messages import raises


def known(*values: float) -> Factors:
    return Factors(torch.eye(len(values), 12), torch.eye(16, len(values)) * torch.tensor(values))


ONE = {"unet": {"a": known(4, 2, 1, 1)}}
"""Squares 16, 4, 1, 1 of 22; sum 8."""


@pytest.mark.parametrize(
    ("law", "value", "rank"),
    [
        ("rank", 2, 2),
        ("rank", 99, 4),
        ("energy", 0.7, 1),
        ("energy", 20 / 22, 2),
        ("energy", 0.92, 3),
        ("energy", 1, 4),
        ("sum", 0.5, 1),
        ("sum", 0.75, 2),
        ("ratio", 3, 2),
        ("ratio", 1, 1),
        ("ratio", 5, 4),
        ("total-energy", 0.92, 3),
        ("parameters", 28 * 2 + 27, 2),
    ],
)
def test_how_many_are_kept(law, value: float, rank: int) -> None:
    made, (loss,) = resize(ONE, RankRule(law, value))
    assert made["unet"]["a"].rank == loss.after == rank
    assert loss.before == 4
    kept = sum([16, 4, 1, 1][:rank])
    assert loss.energy == pytest.approx(kept / 22)
    assert loss.error == pytest.approx((22 - kept) ** 0.5, abs=1e-6)
    dense = ONE["unet"]["a"].dense()
    assert (dense - made["unet"]["a"].dense()).norm().item() == pytest.approx(loss.error, abs=1e-5)


def test_a_budget_goes_where_it_weighs_most() -> None:
    two = {"unet": {"strong": known(9, 8, 7, 6), "weak": known(1, 0.1, 0.1, 0.1)}}
    made, _ = resize(two, RankRule("parameters", 28 * 5))
    assert (made["unet"]["strong"].rank, made["unet"]["weak"].rank) == (4, 1)
    with raises(BadUsage):
        resize(two, RankRule("parameters", 30))


def test_energy_rises_with_rank() -> None:
    lora = {"unet": {str(n): factors(20, 16, 6, seed=n) for n in range(4)}}
    kept = [sum(loss.energy for loss in resize(lora, RankRule("rank", rank))[1]) for rank in range(1, 7)]
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(4)


def test_other_kinds_and_convolutions() -> None:
    lora = {"unet": {"conv": factors(8, 4, 3, kernel=3), "loha": loha()}}
    made, losses = resize(lora, RankRule("rank", 9))
    assert made["unet"]["conv"].down.shape == (3, 4, 3, 3)
    assert torch.allclose(made["unet"]["loha"].dense(), to_lora(loha()).dense(), atol=1e-5)
    assert max(loss.relative for loss in losses) < 1e-7
    made, (loss,) = resize({"unet": {"x": dora()}}, RankRule("rank", 1))
    change, (plain, _) = made["unet"]["x"], resize({"unet": {"x": dora().factors}}, RankRule("rank", 1))
    assert isinstance(change, Dora)
    assert torch.equal(change.magnitude, dora().magnitude)
    assert torch.equal(change.factors.up, plain["unet"]["x"].up)
    assert (loss.before, loss.after) == (2, 1)


def test_an_empty_change_stays() -> None:
    zero = {"unet": {"x": Factors(torch.ones(2, 4), torch.zeros(4, 2))}}
    for law, value in (("energy", 0.9), ("ratio", 9), ("total-energy", 0.5)):
        made, (loss,) = resize(zero, RankRule(law, value))  # pyright: ignore
        assert made["unet"]["x"].rank == 1
        assert loss.relative == 0


@pytest.mark.parametrize(("law", "value"), [("energy", 0), ("energy", 1.1), ("rank", 0), ("ratio", 0.5)])
def test_values_that_mean_nothing_are_refused(law, value: float) -> None:
    with pytest.raises(BadUsage, match=f"--{law} is .*; it must be between"):
        RankRule(law, value)
