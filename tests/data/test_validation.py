import pytest

from limner.data.validation import MIN_IMAGES, SHARE, held_out


@pytest.mark.parametrize(
    ("images", "wished", "count"),
    [
        (MIN_IMAGES - 1, None, 0),
        (MIN_IMAGES, None, MIN_IMAGES // SHARE),
        (55, None, 5),
        (5, 2, 2),
        (100, 0, 0),
    ],
)
def test_how_many_are_held_out(images, wished, count):
    assert held_out(images, wished) == count
