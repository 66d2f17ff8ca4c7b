import torch

from limner.nn.memory.to_device import to_device


def test_where_there_is_no_gpu_nothing_is_copied():
    """What a GPU gets, and that nothing waits for it, is tried on a stand-in (``tests/laws``)."""
    given = torch.ones(2, 3)
    assert to_device(given, torch.device("cpu")) is given
    there = to_device(given, torch.device("meta"))
    assert there.is_meta and there.shape == given.shape
