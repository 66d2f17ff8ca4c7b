import pytest
import torch
from torch import nn

from limner.planning.tracker import Tracker


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_a_storage_counts_from_birth_to_death() -> None:
    with Tracker(granule=1) as tracker:
        a = meta(256)
        b = a + 1
        view = b[:2]
        assert tracker.alive == 2048
        del b
        assert tracker.alive == 2048, "a view keeps the whole storage"
        del view
        assert (tracker.alive, tracker.peak) == (1024, 2048)
        del a
    assert [size for _, size in tracker.events] == [1024, 1024, -1024, -1024]


def test_sizes_are_rounded_up_to_what_the_allocator_gives() -> None:
    with Tracker() as tracker:
        held = meta(3)
        assert tracker.alive == 512
        assert held.numel() == 3


def test_what_operations_of_one_shape_give_is_remembered_but_never_shared() -> None:
    with Tracker(granule=1) as tracker:
        a, b = meta(4, 4), meta(4, 4)
        first, second = torch.nn.functional.gelu(a), torch.nn.functional.gelu(b)
        assert tracker.alive == 4 * 64
        assert first.untyped_storage()._cdata != second.untyped_storage()._cdata
        assert torch.nn.functional.gelu(meta(4, 2)).shape == (4, 2)
        assert torch.nn.functional.gelu(a.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
def test_a_product_that_is_viewed_is_one_storage(shape: tuple[int, ...]) -> None:
    for _ in range(2):  # the second time it is remembered
        with Tracker(granule=1) as tracker:
            x, weight = meta(*shape), meta(7, 5)
            before = tracker.alive
            y = torch.nn.functional.linear(x, weight)
            assert tracker.alive - before == 4 * y.numel()


def test_causes_are_told_apart() -> None:
    layer = nn.Linear(8, 8, device="meta")
    with Tracker(granule=1) as tracker:
        tracker.watch(layer.parameters(), "weights")
        tracker.hold(100, "optimizer")
        x = layer(meta(2, 8))
        tracker.rename(x, "gradients")
    assert {cause: size for cause, size in tracker.causes.items() if size} == {
        "weights": 288,
        "optimizer": 100,
        "gradients": 64,
        "activations": 64,
    }
    assert tracker.peak == sum(tracker.causes_at_peak.values()) == 288 + 100 + 64 + 64


def test_work_is_counted_in_products_and_in_bytes() -> None:
    layer = nn.Linear(8, 16, bias=False, device="meta")
    with Tracker() as tracker:
        x = meta(2, 8)
        tracker.segment("block", "forward")
        layer(x).relu()
        block = tracker.now
        tracker.did(attention=7, output_bytes=5)
    assert block.gemm == 2 * 2 * 8 * 16
    assert block.traffic == 2 * (2 * 16 * 4)
    assert (block.attention, block.attention_kept, block.kernels) == (7, 5, 3)


def test_gradients_are_summed_in_place_as_without_a_mode() -> None:
    x = torch.ones(1000, device="meta", requires_grad=True)
    with Tracker(granule=1) as tracker:
        hidden = x * 5
        loss = (hidden * 2 + hidden * 3).sum()
        tracker.segment("", "backward")
        start = tracker.alive
        loss.backward()
        # of the two gradients of `hidden` one takes the sum, so no third is ever there
        assert 2 * 4000 <= tracker.now.peak - start < 3 * 4000


def test_a_gradient_that_python_holds_is_not_written_to() -> None:
    with Tracker(granule=1) as tracker:
        gradient = meta(4)
        assert tracker._free(gradient)
        tracker.seen_by_python(gradient)
        assert not tracker._free(gradient)
