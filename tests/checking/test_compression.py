import io

import numpy as np
import pytest
from PIL import Image

from limner.checking.compression import blockiness, native, quality


def photo() -> Image.Image:
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(30, 220, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((480, 480), Image.Resampling.BICUBIC)


def saved(image: Image.Image, level: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=level)
    return Image.open(file)


@pytest.mark.parametrize("level", [10, 30, 50, 75, 90, 95])
def test_the_quality_is_read_from_the_tables(level):
    tables = saved(photo(), level).quantization
    assert quality(tables[0]) == pytest.approx(level, abs=1 if level > 25 else 6)
    assert quality(()) is None


def test_blocks_are_seen_wherever_the_grid_begins():
    assert blockiness(np.asarray(photo().convert("L"))) < 1.1
    ruined = np.asarray(saved(photo(), 8).convert("L"))
    assert blockiness(ruined) > 1.75 and blockiness(ruined[3:, 5:]) > 1.75
    assert blockiness(np.asarray(saved(photo(), 85).convert("L"))) < 1.6


def test_pixel_art_is_not_ruined():
    draw = np.random.default_rng(0)
    cells = draw.integers(0, 255, 6, dtype=np.uint8)[draw.integers(0, 6, (60, 60))]
    assert blockiness(np.kron(cells, np.ones((8, 8), np.uint8))) == 1.0
    assert blockiness(np.zeros((20, 20), np.uint8)) == 1.0


@pytest.mark.parametrize("times", [2, 4, 10, 16, 32])
@pytest.mark.parametrize("levels", [6, 24, 256])
def test_what_was_enlarged_without_smoothing_is_not_ruined(times, levels):
    """Steps between cells may be small, as those between JPEG's blocks are."""
    coarse = photo().resize((640 // times, 640 // times)).convert("L").quantize(levels).convert("L")
    assert blockiness(np.asarray(coarse.resize((640, 640), Image.Resampling.NEAREST))) == 1.0


@pytest.mark.parametrize("times", [4, 8, 16])
def test_a_sprite_on_a_plain_ground_is_not_ruined(times):
    """Few cells change, and they by much."""
    cells = np.full((64, 64), 200, np.uint8)
    cells[20:44, 24:40] = np.random.default_rng(1).choice(np.array([40, 90, 140], np.uint8), (24, 16))
    assert blockiness(np.kron(cells, np.ones((times, times), np.uint8))) == 1.0


def test_a_jpeg_of_enlarged_pixels_is_still_seen_as_one():
    enlarged = photo().resize((120, 120)).resize((480, 480), Image.Resampling.BICUBIC)
    assert blockiness(np.asarray(saved(enlarged, 5).convert("L"))) > 1.75


def test_the_middle_is_not_scaled():
    assert native(photo(), 100).shape == (100, 100)
    assert native(photo(), 1000).shape == (480, 480)
