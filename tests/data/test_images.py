import builtins
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.data import images
from limner.data.images import BadImage, header, inspect, read_image, region
from limner.errors import BadData
from limner.files import sha256_file
from messages import raises


def near(image: Image.Image, other: Image.Image, most: float) -> bool:
    a, b = (np.asarray(one.convert("RGB"), np.float64) for one in (image, other))
    return a.shape == b.shape and bool(np.abs(a - b).mean() < most)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_orientation_comes_out_upright(tmp_path, paint, suffix, turn):
    upright = paint(48, 32)
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(turn, turn)
    stored = upright.transpose(images._TURNS[undo]) if undo > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix != "tif" else {}))
    assert header(path) == (48, 32)
    assert inspect(path)[1:] == (48, 32)
    assert near(read_image(path), upright, 6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, paint, mode):
    path = tmp_path / "a.tif"
    if mode == "I;16":
        gray = np.asarray(paint().convert("L")).astype(np.uint16) * 257
        Image.fromarray(gray).save(path)
    elif mode == "PA":
        path = tmp_path / "a.png"
        paint().quantize(16).save(path, transparency=0)
    else:
        paint().convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (48, 32)


def test_sixteen_bit_gray_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(8, 0)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert np.array_equal(np.asarray(read_image(tmp_path / name))[0, :, 0], np.arange(256)), name


def test_float_samples_are_refused(tmp_path):
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "a.tif")
    with raises(BadImage):
        inspect(tmp_path / "a.tif")


def test_samples_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((40, 40), 70000, np.int32)).save(tmp_path / "a.tif")
    with raises(BadImage):
        inspect(tmp_path / "a.tif")


def test_transparency_lies_on_white(tmp_path):
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    clear.paste((200, 0, 0, 128), (4, 0, 8, 8))
    for name in ("a.png", "a.webp"):
        clear.save(tmp_path / name, lossless=True)
        image = read_image(tmp_path / name)
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((6, 4)) == pytest.approx((227, 127, 127), abs=1)


def test_a_palette_with_one_clear_colour_lies_on_white(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.paste(0, (0, 0, 4, 8))
    picture.save(tmp_path / "a.png", transparency=0)
    image = read_image(tmp_path / "a.png")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((6, 0)) == (10, 200, 30)


def test_cmyk_jpeg_keeps_its_colours(tmp_path, paint):
    paint().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert near(read_image(tmp_path / "a.jpg"), paint(), 4)
    assert read_image(tmp_path / "a.jpg", at_least=(6, 4)).mode == "RGB"
    assert inspect(tmp_path / "a.jpg")[1:] == (48, 32)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, paint, suffix):
    second = Image.new("RGB", (48, 32), "black")
    paint().save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert near(read_image(tmp_path / f"a.{suffix}"), paint(), 12)


def test_two_pictures_in_one_jpeg_are_read_as_the_first(tmp_path, paint):
    paint(480, 320).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[paint(32, 32)], quality=95)
    assert inspect(tmp_path / "a.jpg")[1:] == (480, 320)
    assert read_image(tmp_path / "a.jpg", at_least=(60, 40)).size == (60, 40)


def test_the_content_counts_not_the_ending(tmp_path, paint):
    paint().save(tmp_path / "a.jpg", "PNG")
    assert inspect(tmp_path / "a.jpg")[1:] == (48, 32)


@pytest.mark.parametrize(
    ("least", "size"), [((90, 60), (120, 80)), ((60, 40), (60, 40)), ((241, 10), (480, 320))]
)
def test_a_jpeg_is_decoded_no_larger_than_needed_and_never_smaller(tmp_path, jpeg, least, size):
    (tmp_path / "a.jpg").write_bytes(jpeg(480, 320))
    assert read_image(tmp_path / "a.jpg", at_least=least).size == size


def test_a_turned_jpeg_is_drafted_in_its_own_directions(tmp_path, paint):
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(480, 320).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", at_least=(80, 120)).size == (80, 120)


def test_draft_is_close_to_the_whole_decode(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg(480, 320))
    drafted = read_image(tmp_path / "a.jpg", at_least=(60, 40))
    whole = read_image(tmp_path / "a.jpg").resize((60, 40), Image.Resampling.LANCZOS)
    assert near(drafted, whole, 1)


def test_the_hash_is_of_the_bytes(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert inspect(tmp_path / "a.jpg").sha256 == sha256_file(tmp_path / "a.jpg")
    assert inspect(tmp_path / "a.jpg", verify=False) == inspect(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "avif", "jp2"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7])
def test_half_a_file_is_damaged(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(
        BadImage, match=r"(damaged|empty|not a picture|stops before|cannot read).*\."
    ) as caught:
        inspect(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_jpeg_whose_end_is_zeros_is_damaged(tmp_path, jpeg):
    data = jpeg(200, 200)
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    with raises(BadImage):
        inspect(tmp_path / "a.jpg")


def test_what_a_phone_puts_behind_the_picture_is_no_damage(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg() + b"\xff\xda" + b"a film" * 50)
    assert inspect(tmp_path / "a.jpg")[1:] == (48, 32)


def test_damaged_exif_counts_as_upright(tmp_path, jpeg):
    data = jpeg()
    rubbish = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x9c" * 40
    segment = b"\xff\xe1" + struct.pack(">H", len(rubbish) + 2) + rubbish
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert inspect(tmp_path / "a.jpg")[1:] == (48, 32)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with raises(BadImage):
        inspect(tmp_path / "a.png")


def test_a_large_photograph_is_no_bomb(tmp_path):
    Image.new("L", (10000, 9500)).save(tmp_path / "a.jpg")
    assert header(tmp_path / "a.jpg") == (10000, 9500)
    assert read_image(tmp_path / "a.jpg", at_least=(1000, 900)).size == (1250, 1188)


def test_a_file_too_large_to_read_is_refused(tmp_path, jpeg, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    with raises(BadImage):
        inspect(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.heic",
            b"\0\0\0\x18ftypheic" + bytes(40),
            r"HEIC, which needs a plug-in. Run: pip install 'limner\[heif\]'",
        ),
        ("a.jpg", b"\0\0\0\x18ftypmif1" + bytes(40), "HEIC, which needs a plug-in"),
        ("a.nef", b"II*\0" + bytes(3), "camera's raw file. Develop it"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that Limner can read"),
        ("a.jpg", b"", "is empty"),
        ("a.jpg", b"hello", "not a picture that Limner can read"),
    ],
)
def test_what_is_no_picture_names_the_remedy(tmp_path, monkeypatch, name, content, reason):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images._plug_in.cache_clear()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImage, match=reason):
        inspect(tmp_path / name)
    images._plug_in.cache_clear()


def test_heic_is_read_when_its_plug_in_is_there(tmp_path, paint):
    plug_in = pytest.importorskip("pillow_heif")
    plug_in.from_pillow(paint(64, 48)).save(tmp_path / "a.heic", quality=90)
    images._plug_in.cache_clear()
    assert inspect(tmp_path / "a.heic")[1:] == (64, 48)
    assert near(read_image(tmp_path / "a.heic"), paint(64, 48), 12)


def test_a_missing_file_and_a_forbidden_one(tmp_path, jpeg, monkeypatch):
    with raises(BadData):
        read_image(tmp_path / "no.jpg")
    (tmp_path / "a.jpg").write_bytes(jpeg())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    with raises(BadData):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "avif", "jp2", "qoi", "ppm", "ico"]
)
def test_flipped_bytes_give_a_picture_or_a_named_error(tmp_path: Path, paint, suffix):
    draw = np.random.default_rng(sum(map(ord, suffix)))
    file = io.BytesIO()
    paint().save(file, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper()))
    path = tmp_path / f"a.{suffix}"
    for _ in range(25):
        data = bytearray(file.getvalue())
        reach = len(data) if draw.random() < 0.5 else min(64, len(data))
        for at in draw.integers(0, reach, draw.integers(1, 12)):
            data[at] = draw.integers(256)
        path.write_bytes(data)
        try:
            facts = inspect(path)
        except BadImage as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert read_image(path).size == facts[1:]


@pytest.mark.parametrize(
    "text", ["10 20 110 220", "10,20,110,220\n", "[10, 20, 110, 220]", "10\t20\n110 220"]
)
def test_four_numbers_in_any_dress(text):
    assert region(text, 300, 300) == (10, 20, 110, 220)


def test_nothing_said_is_the_whole():
    assert region("", 300, 300) is None and region(" \n", 300, 300) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10 20 110", "four whole numbers"),
        ("left top right bottom", "four whole numbers"),
        ("0.1 0.2 0.5 0.5", "four whole numbers"),
        ("10 20 301 220", "no part of its 300 x 300"),
        ("110 20 10 220", "no part"),
        ("-1 0 10 10", "no part"),
    ],
)
def test_what_is_no_part_is_refused(text, said):
    with pytest.raises(BadData, match=said):
        region(text, 300, 300)
