import pytest
import torch

from limner.errors import BadLora
from limner.lora import qkv
from limner.lora.adapters import Dora, Lokr, LokrRows, kind, to_lora
from limner.lora.factors import Factors
from limner.models.key_map import KeyEntry
from loras import dora, factors, loha, lokr
from messages import raises

QKV = KeyEntry(("q", "k", "v"), "qkv", (1, 1, 1))
MIXED = KeyEntry(("q", "mlp"), "linear1", (1, 4))


def test_unequal_ranks_come_apart_as_they_went_together() -> None:
    members = [factors(rank=rank, seed=rank) for rank in (1, 2, 3)]
    whole = qkv.fuse(QKV, members)
    assert whole.rank == 6
    wanted = torch.cat([m.dense() for m in members])
    assert torch.allclose(to_lora(whole).dense(), wanted, atol=1e-6)
    for mine, again in zip(members, qkv.split(QKV, whole), strict=True):
        assert isinstance(again, Factors)
        assert torch.equal(mine.down, again.down)
        assert torch.equal(mine.up, again.up)


def test_a_missing_member_leaves_its_rows_alone() -> None:
    whole = qkv.fuse(QKV, [factors(), None, factors(seed=1)])
    assert whole.shape == (24, 8)
    assert not to_lora(whole).dense()[8:16].any()
    parts = qkv.split(QKV, whole)
    assert parts[1] is None
    assert parts[0] is not None


def test_one_down_for_all_keeps_the_rank() -> None:
    down = torch.randn(4, 8)
    members = [Factors(down, torch.randn(8, 4)) for _ in range(3)]
    whole = qkv.fuse(QKV, members)
    assert whole.rank == 4
    assert [part.rank for part in qkv.split(QKV, whole) if part] == [4, 4, 4]


def test_an_untrained_one_keeps_its_modules() -> None:
    parts = qkv.split(QKV, Factors(torch.randn(2, 8), torch.zeros(24, 2)))
    assert [part is None for part in parts] == [False] * 3


def test_parts_of_unequal_height() -> None:
    members = [factors(8), factors(32, seed=1)]
    parts = qkv.split(MIXED, qkv.fuse(MIXED, members))
    assert [part.shape for part in parts if part] == [(8, 8), (32, 8)]


def test_lohas_go_together_exactly() -> None:
    members = [loha(seed=n) for n in range(3)]
    whole = qkv.fuse(QKV, members)
    wanted = torch.cat([to_lora(m).dense() for m in members])
    assert torch.allclose(to_lora(whole).dense(), wanted, atol=1e-5)
    parts = qkv.split(QKV, whole)
    for mine, again in zip(members, parts, strict=True):
        assert again is not None
        assert torch.allclose(to_lora(mine).dense(), to_lora(again).dense(), atol=1e-5)


def test_a_fused_lokr_comes_apart_by_its_outer_rows() -> None:
    whole = lokr(24, 8)
    wide = type(whole)((torch.randn(6, 2),), (torch.randn(4, 4),))
    parts = qkv.split(QKV, wide)
    dense = torch.cat([to_lora(part).dense() for part in parts if part])
    assert torch.allclose(dense, to_lora(wide).dense(), atol=1e-5)
    assert all(isinstance(part, LokrRows) and isinstance(part.unfused(), Lokr) for part in parts)


@pytest.mark.parametrize("rows", [(2, 12), (6, 4), (24, 1), (1, 24), (8, 3)])
def test_a_fused_lokr_is_never_lost(rows: tuple[int, int]) -> None:
    """A Kronecker product knows nothing of q, k and v: its blocks may end anywhere."""
    whole = Lokr((torch.randn(rows[0], 2),), (torch.randn(rows[1], 4),))
    parts = qkv.split(QKV, whole)
    dense, probe = to_lora(whole).dense(), torch.randn(8, 3, dtype=torch.float64)
    for n, part in enumerate(parts):
        assert isinstance(part, LokrRows)
        block = dense[8 * n : 8 * n + 8]
        assert part.shape == (8, 8)
        assert torch.allclose(to_lora(part).dense(), block, atol=1e-5)
        assert torch.allclose(part.times(probe), block @ probe, atol=1e-4)
        assert part.norm() == pytest.approx(block.norm().item(), rel=1e-5)
        if part.is_whole_blocks:
            assert torch.allclose(to_lora(part.unfused()).dense(), block, atol=1e-5)
        else:
            with pytest.raises(BadLora, match="cannot be taken apart. Use --flatten"):
                part.unfused()
    assert qkv.fuse(QKV, parts) is whole, "written again as it was"


def test_what_cannot_be_one_is_refused() -> None:
    with raises(BadLora):
        qkv.fuse(QKV, [dora(), factors(), factors()])
    with raises(BadLora):
        qkv.fuse(QKV, [factors(8), factors(6), factors(8)])
    with raises(BadLora):
        qkv.split(QKV, dora(24, 8, "in"))
    with raises(BadLora):
        qkv.split(QKV, factors(8))


@pytest.mark.parametrize("change", [factors(16), loha(16), lokr(16), dora(16), dora(16, axis="in")], ids=kind)
def test_a_swap_turns_the_rows_of_the_changed_weight(change) -> None:
    weight = torch.randn(16, 8)
    turned = torch.cat(weight.chunk(2)[::-1])

    def moved(own, start: torch.Tensor) -> torch.Tensor:
        return own.over(start) if isinstance(own, Dora) else start + to_lora(own).dense()

    wanted = torch.cat(moved(change, weight).chunk(2)[::-1])
    assert torch.allclose(moved(qkv.swap_halves(change), turned).float(), wanted.float(), atol=1e-5)


def test_what_has_no_halves_is_refused() -> None:
    with raises(BadLora):
        qkv.swap_halves(factors(7))
