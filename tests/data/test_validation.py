import pytest

from limner.data.validation import FEW, SHARE, held_out


@pytest.mark.parametrize(
    ("images", "wished", "count"),
    [(FEW - 1, None, 0), (FEW, None, FEW // SHARE), (55, None, 5), (5, 2, 2), (100, 0, 0)],
)
def test_how_many_are_held_out(images, wished, count):
    assert held_out(images, wished) == count
