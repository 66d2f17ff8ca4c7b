import pytest
from PIL import Image

from limner.checking.image_stats import measure
from limner.data.folder import read_folder
from limner.data.images import BadImage
from messages import raises
from scenes import blurred, scene

SIZE = (128, 128)


@pytest.fixture
def example(tmp_path):
    def make(image: Image.Image, name: str = "a.png", **options):
        image.save(tmp_path / name, **options)
        return read_folder(tmp_path, trigger="x").examples[0]

    return make


def test_a_picture_in_order(example):
    seen = measure(example(scene(0)), (SIZE,))
    assert seen.upscale == pytest.approx(0.8) and seen.cut.crop == (0, 0, 160, 160)
    assert seen.sharpness.blur < 1 and seen.exposure == "" and not any(seen.borders)
    assert seen.quality is None and seen.blocks < 1.2 and seen.thumb.size == SIZE


def test_what_is_wrong_is_measured(example):
    assert measure(example(blurred(0)), (SIZE,)).sharpness.blur > 1.8
    assert measure(example(scene(0, (100, 100))), (SIZE,)).upscale == pytest.approx(1.28)


def test_a_jpeg_tells_its_quality_and_how_it_is_stored(example):
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = measure(example(scene(0, (1600, 1200)), "a.jpg", quality=30, exif=exif), (SIZE,))
    assert seen.quality == pytest.approx(30, abs=1) and seen.format_info.turn == 6
    assert (seen.example.width, seen.example.height) == (1200, 1600) and seen.thumb.size == SIZE


def test_a_file_that_is_gone_is_named(example):
    one = example(scene(0))
    one.path.unlink()
    with raises(BadImage):
        measure(one, (SIZE,))
