from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from limner.data.folder import Example
from limner.data.images import BadImage
from limner.data.views import (
    Scale,
    View,
    buckets,
    central,
    closest,
    pixels,
    require_filled,
    sizes_at,
    sizes_of,
    views,
)
from limner.errors import BadData, BadRecipe
from messages import raises

SCALES = (Scale(buckets(64, multiple=16)),)


def example(path: Path = Path("a.jpg"), width: int = 480, height: int = 480, captions=("a", "b")) -> Example:
    return Example(path, "00", width, height, tuple(captions))


def test_views_are_flips_times_captions():
    found = views([example(), example(captions=("c",))], scales=SCALES, flip=True, dropout=True)
    assert [(view.flip, view.caption) for view in found] == [
        (False, "a"), (False, "b"), (False, ""), (True, "a"), (True, "b"), (True, ""),
        (False, "c"), (False, ""), (True, "c"), (True, ""),
    ]  # fmt: skip
    assert {view.size for view in found} == {(64, 64)}
    assert [view.caption for view in views([example()], scales=SCALES, flip=False, dropout=False)] == [
        "a",
        "b",
    ]


def test_an_empty_caption_is_one_view():
    found = views([example(captions=("",))], scales=SCALES, flip=False, dropout=True)
    assert [view.caption for view in found] == [""]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("turn", [1, 6])
def test_pixels_are_the_crop_of_the_upright_picture(tmp_path, paint, suffix, turn):
    upright = paint(960, 400)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright if turn == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif)
    (plain, mirrored) = views([example(path, 960, 400, ("a",))], scales=SCALES, flip=True, dropout=False)
    assert plain.size == (80, 48) and plain.crop == (146, 0, 813, 400)
    wanted = np.asarray(upright.crop(plain.crop).resize(plain.size, Image.Resampling.LANCZOS), np.float64)
    got = pixels(plain)
    assert got.dtype == np.uint8 and got.shape == (48, 80, 3) and got.flags.c_contiguous
    assert np.abs(got - wanted).mean() < 1.5
    assert np.array_equal(pixels(mirrored), got[:, ::-1])


def test_small_images_are_enlarged(tmp_path, paint):
    paint(20, 20).save(tmp_path / "a.png")
    (view,) = views([example(tmp_path / "a.png", 20, 20, ("a",))], scales=SCALES, flip=False, dropout=False)
    assert pixels(view).shape == (64, 64, 3)


def test_pixels_draft_a_large_jpeg_and_stay_close(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    picture = Image.fromarray(noise).resize((1800, 1200), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=92)
    view = View(
        example(tmp_path / "a.jpg", 1800, 1200), (240, 160), (0, 0, 1800, 1200), flip=False, caption=""
    )
    whole = Image.open(tmp_path / "a.jpg").resize((240, 160), Image.Resampling.LANCZOS)
    error = pixels(view).astype(float) - np.asarray(whole, float)
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 40


def test_a_file_that_changed_or_went_is_named(tmp_path, paint):
    path = tmp_path / "a.png"
    (view,) = views([example(path, 64, 64, ("a",))], scales=SCALES, flip=False, dropout=False)
    with raises(BadData):
        pixels(view)
    paint(64, 80).save(path)
    with raises(BadImage):
        pixels(view)


def test_a_frame_says_where_the_crop_was():
    one = View(example(width=960, height=400), (80, 48), (100, 0, 766, 400), False, "a")
    assert one.frame == (400, 960, 0, 12, 48, 80)
    mirrored = View(one.example, one.size, one.crop, True, "a")
    assert mirrored.frame == (400, 960, 0, 23, 48, 80), "counted from the other edge"


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


SEVERAL = tuple(Scale(buckets(side, multiple=16), draws) for side, draws in ((32, 1), (64, 2), (128, 3)))


def test_an_image_is_seen_at_each_resolution_that_it_fills_and_at_the_next_smaller_for_one_that_it_does_not():
    assert sizes_at(200, 200, SEVERAL) == ((32, 32), (64, 64), (128, 128))
    assert sizes_at(127, 300, SEVERAL) == ((32, 32), (48, 80), (96, 160)), "its bucket is narrower"
    assert sizes_at(127, 127, SEVERAL) == ((32, 32), (64, 64), (64, 64))
    assert sizes_at(20, 20, SEVERAL) == ((32, 32),) * 3
    assert sizes_of(example(width=127, height=127), SEVERAL) == {(64, 64): 5, (32, 32): 1}
    part = replace(example(width=500, height=500), region=(0, 0, 40, 40))
    assert sizes_of(part, SEVERAL) == {(32, 32): 6}, "only what counts is enlarged or not"


@given(st.integers(1, 900), st.integers(1, 900))
def test_no_image_is_enlarged_but_for_the_smallest_resolution_and_all_have_as_many_draws(width, height):
    sizes = sizes_of(example(width=width, height=height), SEVERAL)
    assert sum(sizes.values()) == 6
    smallest = closest(width, height, SEVERAL[0].buckets)
    for size in sizes:
        left, top, right, bottom = central(width, height, size)
        assert size == smallest or (right - left >= size[0] and bottom - top >= size[1])
    assert [*sizes] == sorted(sizes, key=lambda size: -size[0] * size[1])


def test_a_resolution_that_no_image_fills_is_refused():
    images = [example(width=200, height=90), example(width=70, height=70)]
    require_filled(images, SEVERAL[:2], (64, 32))
    with raises(BadRecipe):
        require_filled(images, SEVERAL, (128, 32, 64))
    require_filled([example(width=20, height=20)], SEVERAL[:1], (32,))


def test_views_of_several_resolutions_have_a_crop_for_each_bucket():
    one = example(width=300, height=200, captions=("a", "b"))
    found = views([one], scales=SEVERAL, flip=False, dropout=False, crops={(one, (80, 48)): (0, 0, 300, 180)})
    sizes = [*sizes_of(one, SEVERAL)]
    assert [(view.size, view.caption) for view in found] == [(size, word) for size in sizes for word in "ab"]
    assert [view.draws for view in found] == [3, 3, 2, 2, 1, 1]
    assert [view.crop == (0, 0, 300, 180) for view in found] == [
        size == (80, 48) for size in sizes for _ in "ab"
    ]
