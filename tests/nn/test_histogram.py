import pytest
import torch

from limner.nn.histogram import FEATURES, hand


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_every_part_is_shares_of_a_whole(pictures: torch.Tensor) -> None:
    found = hand(pictures)
    assert found.shape == (3, FEATURES)
    assert torch.allclose(found.square().sum(1), torch.full((3,), 4.0))


def test_where_things_stand_does_not_count(pictures: torch.Tensor) -> None:
    assert torch.allclose(hand(pictures), hand(pictures.flip(-1)))
    assert torch.allclose(hand(pictures), hand(pictures.mT))


def test_another_palette_and_softer_edges_count(pictures: torch.Tensor) -> None:
    plain = hand(pictures)
    assert (hand(pictures.flip(1)) - plain).abs().max() > 0.02
    assert (hand(pictures * 0.5 + 0.25)[:, -48:] - plain[:, -48:]).abs().max() > 0.02


def test_white_and_black_are_in_range() -> None:
    for value in (0.0, 1.0):
        assert torch.isfinite(hand(torch.full((1, 3, 16, 16), value))).all()
