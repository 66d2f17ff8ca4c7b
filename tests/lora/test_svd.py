import time

import pytest
import torch

from limner.lora.adapters import Lokr
from limner.lora.factors import Factors
from limner.lora.svd import nearest, spectrum
from loras import factors


@pytest.mark.parametrize(
    "change",
    [
        factors(40, 30, 6),
        factors(12, 9, 4, kernel=3),
        Factors(torch.cat([factors(40, 30, 3).down] * 2), factors(40, 30, 6).up),
        Factors(torch.ones(3, 30), torch.zeros(40, 3)),
        factors(4, 30, 9),
    ],
    ids=["plain", "convolution", "dependent", "zero", "wide"],
)
def test_values_and_vectors_are_those_of_the_dense_change(change: Factors) -> None:
    own, dense = spectrum(change), change.dense()
    wanted = torch.linalg.svdvals(dense)[: len(own.values)]
    assert torch.allclose(own.values, wanted, rtol=1e-11, atol=1e-11 * max(1.0, wanted[0].item()))
    assert torch.allclose(own.cut(99).dense(), dense, atol=1e-5)
    assert own.cut(99).down.shape[1:] == change.down.shape[1:]


def test_cutting_is_the_nearest_of_that_rank() -> None:
    change = factors(40, 30, 6)
    own, dense = spectrum(change, 2), change.dense()
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    best = left[:, :2] * values[:2] @ right[:2]
    assert torch.allclose(own.cut(2).dense(), best, atol=1e-5)
    assert own.error(2) == pytest.approx((dense - best).norm().item(), rel=1e-9)
    assert own.cut(2).rank == 2


def test_the_factors_are_balanced() -> None:
    made = spectrum(factors(40, 30, 6)).cut(4)
    assert torch.allclose(made.up.norm(dim=0), made.down.norm(dim=1), rtol=1e-5)


def test_an_ill_conditioned_change_is_not_trusted_to_its_gram_matrix() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 4, generator=draw, dtype=torch.float64)).Q
    up = (basis * torch.tensor([1.0, 1e-3, 1e-6, 1e-9])).float()
    change = Factors(torch.eye(4, 30), up)
    assert torch.allclose(spectrum(change).values, torch.linalg.svdvals(up.double()), rtol=1e-9)


@pytest.mark.parametrize("rank", [4, 20])
def test_a_dense_change_and_its_nearest(rank: int) -> None:
    draw = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(60, 60, generator=draw, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(50, 50, generator=draw, dtype=torch.float64)).Q
    values = 1 / torch.arange(1, 51, dtype=torch.float64)
    dense = left[:, :50] * values @ right + 0.0
    cut = nearest(dense, rank).cut(rank)
    best = values[rank:].square().sum().sqrt().item()
    assert (dense - cut.dense()).norm().item() < best * 1.001
    assert torch.equal(nearest(dense, rank).cut(rank).up, cut.up)


def test_the_mean_is_not_lost() -> None:
    dense = torch.ones(30, 20) + factors(30, 20, 2).dense()
    assert torch.allclose(nearest(dense, 3).cut(3).dense(), dense.double(), atol=1e-4)
    kernels = torch.randn(30, 4, 3, 3)
    assert nearest(kernels, 2).cut(2).down.shape == (2, 4, 3, 3)


@pytest.mark.parametrize("shapes", [((4, 3), (10, 5)), ((2, 2), (6, 4, 3, 3)), ((3, 4), (4, 2), (2, 6))])
def test_a_lokr_has_the_singular_values_of_its_product(shapes: tuple[tuple[int, ...], ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    first, *second = (torch.randn(*shape, generator=draw) for shape in shapes)
    change = Lokr((first,), tuple(second))
    own, dense = spectrum(change, 2), change.to_lora().dense()
    assert torch.allclose(own.values, torch.linalg.svdvals(dense)[: len(own.values)], rtol=1e-6, atol=1e-5)
    assert torch.allclose(own.cut(99).dense(), dense, atol=1e-5)
    assert own.cut(3).down.shape == (3, *change.to_lora().down.shape[1:])
    assert own.cost == sum(change.shape)
    best = own.cut(2).dense()
    assert own.error(2) == pytest.approx((dense - best).norm().item(), rel=1e-4)


def test_a_lokr_of_true_size_is_never_made_dense() -> None:
    """One of Z-Image took 42 seconds; 240 of them are in a file."""
    draw = torch.Generator().manual_seed(0)
    change = Lokr((torch.randn(8, 8, generator=draw),), (torch.randn(480, 480, generator=draw),))
    start = time.process_time()
    change.norm()
    assert spectrum(change, 32).cut(32).rank == 32
    change.times(torch.randn(3840, 8))
    assert time.process_time() - start < 5
