import pytest
import torch

from limner.errors import BadLora, BadUsage
from limner.hyper.merge import cut, groups_of, join
from messages import raises


def prediction(seed: int, rank: int = 4, width: int = 12) -> dict:
    draw = torch.Generator().manual_seed(seed)
    return {
        layer: (torch.randn(rank, width, generator=draw), torch.randn(9, rank, generator=draw))
        for layer in ("a.to_q", "b.to_q")
    }


def dense(pair: tuple) -> torch.Tensor:
    return pair[1].double() @ pair[0].double()


def test_joined_predictions_are_their_weighted_sum():
    several = [prediction(seed, rank) for seed, rank in enumerate((4, 4, 2))]
    weights = [0.5, 0.25, 1.0]
    joined = join(several, weights)
    for layer, factors in joined.items():
        assert factors.rank == 10
        wanted = sum(weight * dense(pairs[layer]) for pairs, weight in zip(several, weights, strict=True))
        assert torch.allclose(factors.dense(), wanted, atol=1e-6)


def test_a_layer_of_one_expert_stays():
    more = prediction(1) | {"c.to_q": (torch.ones(1, 3), torch.ones(2, 1))}
    assert torch.equal(
        join([prediction(0), more], [1.0, 0.5])["c.to_q"].dense(), torch.full((2, 3), 0.5).double()
    )


def test_cut_is_the_best_of_its_rank_and_says_what_is_kept():
    joined = join([prediction(seed) for seed in range(2)], [0.5, 0.5])
    kept_whole, energy = cut(joined, 8)
    assert energy == pytest.approx(1.0, abs=1e-9)
    assert all(torch.allclose(kept_whole[layer].dense(), f.dense(), atol=1e-5) for layer, f in joined.items())
    smaller, energy = cut(joined, 3)
    kept = whole = 0.0
    for layer, factors in joined.items():
        left, values, right = torch.linalg.svd(factors.dense(), full_matrices=False)
        assert torch.allclose(smaller[layer].dense(), left[:, :3] * values[:3] @ right[:3], atol=1e-5)
        kept, whole = kept + float(values[:3].square().sum()), whole + float(values.square().sum())
    assert energy == pytest.approx(kept / whole, abs=1e-6) and energy < 0.99


def test_nested_ranks_are_cut_from_the_end():
    adapter = join([prediction(0)], [1.0])
    smaller, energy = cut(adapter, 3, nested=True)
    residual = whole = 0.0
    for layer, factors in adapter.items():
        wanted = factors.up.double()[:, :3] @ factors.down.double()[:3]
        assert torch.allclose(smaller[layer].dense(), wanted) and smaller[layer].rank == 3
        residual += float((factors.dense() - wanted).square().sum())
        whole += float(factors.dense().square().sum())
    assert energy == pytest.approx(1 - residual / whole, abs=1e-6)
    assert energy < cut(adapter, 3)[1]  # in energy nothing is nearer than the SVD


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_cannot_be_is_told(rank):
    with raises(BadUsage):
        cut(join([prediction(0), prediction(1)], [1.0, 1.0]), rank)


def test_other_bases_do_not_join():
    with raises(BadLora):
        join([prediction(0), prediction(1, width=13)], [0.5, 0.5])


def test_groups_are_of_nearly_the_same_size():
    assert groups_of(19, 8) == [range(7), range(7, 13), range(13, 19)]
    assert groups_of(8, 8) == [range(8)] and groups_of(1, 8) == [range(1)]
