import torch

from limner.nn.batch import mask_or_none, pad_collate, to_device


def test_short_rows_end_in_zeros():
    rows = [torch.ones(1, length, 2) for length in (3, 1)]
    batch = pad_collate(rows)
    assert batch.shape == (2, 3, 2) and batch.sum(2).tolist() == [[2, 2, 2], [2, 0, 0]]
    mask = pad_collate([torch.ones(1, length, dtype=torch.bool) for length in (3, 1)])
    assert mask.dtype == torch.bool and mask.tolist() == [[True] * 3, [True, False, False]]


def test_rows_of_one_length_are_untouched():
    rows = [torch.randn(1, 4, 3), torch.randn(1, 4, 3)]
    assert torch.equal(pad_collate(rows), torch.cat(rows))


def test_a_mask_that_hides_nothing_is_none():
    assert mask_or_none(torch.ones(2, 3, dtype=torch.bool)) is None
    hiding = torch.tensor([[True, False]])
    assert mask_or_none(hiding) is hiding


def test_where_there_is_no_gpu_nothing_is_copied():
    """What a GPU gets, and that nothing waits for it, is tried on a stand-in (``tests/laws``)."""
    given = torch.ones(2, 3)
    assert to_device(given, torch.device("cpu")) is given
    there = to_device(given, torch.device("meta"))
    assert there.is_meta and there.shape == given.shape
