import pytest

from limner.planning.copies import waiting_of


def test_blocks_and_modulations_share_one_copy_engine():
    """By hand: two blocks of 1 s forward and 2 s back, one of them streamed; modulations of 3 s and 1 s."""
    uses = [(1.0, 0.0, 0), (1.0, 2.0, 1), (2.0, 2.0, 1), (2.0, 0.0, 0)]
    # waits 3 s, then computes 1 s, in which the second modulation comes; the block lies in its buffer
    assert waiting_of(uses, 2, 0.0, [3.0, 1.0]) == pytest.approx(3.0)
    assert waiting_of(uses, 2, 0.0, [3.0, 1.5]) == pytest.approx(3.5)
    assert waiting_of(uses, 2, 0.0) == 0.0
    three = [(1.0, 2.0, 0), (1.0, 2.0, 1), (1.0, 2.0, 2), (1.0, 0.0, 2), (1.0, 2.0, 1), (1.0, 2.0, 0)]
    apart = waiting_of(three, 2, 0.0)
    assert waiting_of(three, 2, 0.0, [0.5, 0.5, 0.5]) > apart, "copies of both take their turns"
