import torch

from limner.nn.padding import mask_or_none, pad_collate


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
