import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from limner.checking.watermark import FRAME, Watermark, carries, find_watermarks, frames, location

SIZES = ((640, 480), (480, 640), (640, 640), (640, 427))
STAMP = np.zeros((2, 1, 1), np.float32)
PLACES = {"top left": (16, 12), "bottom right": (-216, -52), "middle": (-100, -20)}


def scene(seed: int, rough: float = 0.0) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 200, (12, 16, 3), dtype=np.uint8))
    page = coarse.resize(SIZES[seed % 4], Image.Resampling.BICUBIC)
    values = np.asarray(page) + draw.normal(0, rough, (page.height, page.width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def marked(page: Image.Image, place: str = "bottom right", strength: int = 130, text: str = "© STOCKPIX"):
    x, y = PLACES[place]
    if place == "middle":
        x, y = x + page.width // 2, y + page.height // 2
    at = x % page.width, y % page.height
    font = ImageFont.load_default(34)
    ImageDraw.Draw(page, "RGBA").text(at, text, font=font, fill=(255, 255, 255, strength))
    return page


def found(pictures, scenes=None):
    return [
        (mark.images, mark.position) for mark in find_watermarks([frames(each) for each in pictures], scenes)
    ]


@pytest.mark.parametrize("place", PLACES)
def test_a_mark_that_pictures_share_is_found_with_its_place_whatever_their_shapes(place):
    pictures = [
        marked(scene(seed, 8), place) if seed in (1, 3, 4, 6) else scene(seed, 8) for seed in range(8)
    ]
    assert found(pictures) == [((1, 3, 4, 6), place)]


def test_a_mark_on_a_rich_ground_is_found_by_what_the_others_share():
    pictures = [marked(scene(seed)) if seed < 3 else scene(seed) for seed in range(6)]
    pictures += [marked(scene(6, 25)), scene(7, 25)]
    assert found(pictures) == [((0, 1, 2, 6), "bottom right")]
    assert found(pictures[:2] + pictures[3:6]) == [], "two are too few to tell"


def test_a_mark_that_is_too_faint_for_any_three_is_found_when_all_have_it():
    pictures = [marked(scene(seed, 20), strength=70) for seed in range(12)]
    (mark,) = found(pictures)
    assert mark[1] == "bottom right" and len(mark[0]) >= 11
    assert found([scene(seed, 20) for seed in range(12)]) == []


def test_two_marks_are_two_and_of_one_kind_of_letters_at_one_place_one():
    pictures = [marked(scene(seed, 8)) for seed in range(3)]
    pictures += [marked(scene(seed, 8), text="anna k. photo") for seed in range(3, 6)]
    pictures += [marked(scene(seed, 8), "top left", text="SAMPLE") for seed in range(6, 9)]
    assert sorted(found(pictures)) == [((0, 1, 2, 3, 4, 5), "bottom right"), ((6, 7, 8), "top left")]


def test_without_one_nothing_is_said():
    assert found([scene(seed) for seed in range(8)]) == []
    assert found([marked(scene(0))] * 2) == []
    assert found([Image.new("RGB", (300, 300), (9, 9, 9))] * 5) == []


def test_shots_of_one_scene_share_more_than_a_mark():
    burst = [scene(4, 25) for _ in range(4)]
    assert found([*burst, scene(1), scene(2)], scenes=[0, 0, 0, 0, 1, 2]) == []
    assert found(burst) == [], "not even where nobody says so"


def test_lines_grids_and_rows_of_writing_at_one_place_are_no_marks():
    lines, grids, pages = [], [], []
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz  "))
    for seed in range(5):
        draw = np.random.default_rng(seed)
        line = scene(seed * 4, 8)
        pen = ImageDraw.Draw(line)
        pen.rectangle((380, 300, 560, 420), fill=(250, 250, 240))
        lines.append(line)
        cells = draw.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        grids.append(Image.fromarray(cells).resize((640, 480), Image.Resampling.NEAREST))
        page = Image.new("RGB", (640, 480), (240, 240, 235))
        for y in range(20, 460, 30):
            row = "".join(draw.choice(letters, 40))
            ImageDraw.Draw(page).text((30, y), row, fill=(20, 20, 20), font=ImageFont.load_default(22))
        pages.append(page)
    assert found([*lines, *grids, *pages]) == []


def test_where_a_mark_lies_is_told_in_the_pixels_of_each_picture():
    mark = Watermark((0, 1, 2), "bottom right", (48, 104, 128, 128), STAMP)
    assert location(mark, 2560, 1280) == (1760, 1040, 2560, 1280)
    assert location(mark, 256, 512) == (96, 464, 256, 512)
    assert location(Watermark((0,), "top left", (0, 8, 40, 32), STAMP), 512, 256) == (0, 16, 80, 64)
    middle = Watermark((0,), "middle", (0, 0, FRAME, FRAME), STAMP)
    assert location(middle, 512, 512) == (128, 128, 384, 384)


def test_a_mark_that_some_pictures_share_is_told_in_further_ones():
    (mark,) = find_watermarks([frames(marked(scene(seed, 8))) for seed in range(4)])
    further = [frames(marked(scene(seed, 8)) if seed % 2 else scene(seed, 8)) for seed in range(20, 30)]
    assert [carries(mark, each) for each in further] == [seed % 2 == 1 for seed in range(20, 30)]
