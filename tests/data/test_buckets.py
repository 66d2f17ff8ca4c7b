from hypothesis import given
from hypothesis import strategies as st

from limner.data.buckets import buckets, central, closest
from limner.errors import BadRecipe
from messages import raises


def test_the_sizes_of_flux_at_1024():
    assert buckets(1024, multiple=16) == (
        (768, 1360), (832, 1248), (896, 1168), (960, 1088), (1024, 1024),
        (1088, 960), (1168, 896), (1248, 832), (1360, 768),
    )  # fmt: skip


@given(st.integers(8, 2048), st.sampled_from([1, 8, 16, 32, 64]), st.floats(1, 4))
def test_sizes_are_multiples_of_nearly_equal_area(resolution, multiple, aspect):
    if resolution < multiple:
        return
    sizes = buckets(resolution, multiple=multiple, max_aspect=aspect)
    side = resolution // multiple * multiple
    assert len(set(sizes)) == len(sizes) and (side, side) in sizes
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert side * side - multiple * min(width, height) < width * height <= side * side
        assert max(width, height) <= aspect * min(width, height)


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_the_crop_is_inside_central_and_of_the_shape(width, height):
    size = closest(width, height, buckets(512, multiple=16))
    left, top, right, bottom = central(width, height, size)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert left in (width - right, width - right - 1) and top in (height - bottom, height - bottom - 1)
    assert right - left == width or bottom - top == height
    assert abs((right - left) * size[1] - (bottom - top) * size[0]) <= max(size)


def test_an_image_takes_the_size_that_crops_least():
    sizes = buckets(1024, multiple=16)
    assert closest(6000, 4000, sizes) == (1248, 832)
    assert closest(4000, 6000, sizes) == (832, 1248)
    assert closest(500, 500, sizes) == (1024, 1024)
    assert closest(9000, 100, sizes) == (1360, 768)
    assert closest(500, 500, sizes[::-1]) == closest(500, 500, sizes)


def test_what_makes_no_bucket_is_refused():
    with raises(BadRecipe):
        buckets(8, multiple=16)
    with raises(BadRecipe):
        buckets(64, multiple=16, max_aspect=0.5)


def test_the_longest_bucket_may_be_exactly_as_long_as_allowed():
    sizes = buckets(48, multiple=16, max_aspect=2.0)
    assert max(sizes) == (64, 32)
    assert max(buckets(48, multiple=16, max_aspect=1.9)) < (64, 32)
