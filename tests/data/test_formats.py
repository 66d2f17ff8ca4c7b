import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from limner.data import formats
from limner.data.formats import SUFFIXES, first_bytes, format_name, odd_image, png_damage, strange
from limner.data.images import BadImage, format_info, inspect, read_image


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("TIFF", "tif"), ("WebP", "webp"), ("AVIF", "avif")]
    + [("JPEG 2000", "jp2"), ("QOI", "qoi")],
)
def test_formats_are_told_by_their_first_bytes(tmp_path, paint, name, suffix):
    path = tmp_path / f"a.{suffix}"
    paint().save(path)
    assert path.suffix in SUFFIXES and format_name(first_bytes(path)) == name


@pytest.mark.parametrize(
    "head", [b"", b"a cat", b"II", b"\0" * 64, b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypisom"]
)
def test_other_bytes_are_of_no_picture(head):
    assert format_name(head) == ""


@pytest.mark.parametrize(
    ("name", "is_read", "reason"),
    [
        ("noext", True, ""),
        ("a.jpg_large", True, ""),
        ("a.JPG_orig", True, ""),
        ("a.png!large", True, ""),
        ("a.jpeg:large", True, ""),
        ("a.jpg?w=200", True, ""),
        ("a.webp@2x", True, ""),
        ("a.jpg.part", False, "is a download that was not finished (JPEG). Download it again."),
        ("a.crdownload", False, "is a download that was not finished (JPEG). Download it again."),
        ("a.bak", False, "is a picture (JPEG) with the ending .bak, which is not read. Rename it."),
        ("a.jpg2", False, "is a picture (JPEG) with the ending .jpg2, which is not read. Rename it."),
        ("blobs/1f3c", False, ""),
    ],
)
def test_odd_endings_of_pictures(tmp_path, fill, name, is_read, reason):
    fill(tmp_path, **{name: None})
    assert odd_image(tmp_path / name) == (is_read, reason)


def test_other_files_are_no_pictures(tmp_path, fill):
    fill(tmp_path, **{"lock": "", "notes": "a cat", "a.pdf": "%PDF-1.4", "b.bak": b"\0\1"})
    assert {odd_image(tmp_path / name) for name in ("lock", "notes", "a.pdf", "b.bak", "gone")} == {
        (False, "")
    }


@pytest.mark.parametrize("suffix", [".mpo", ".pjpeg", ".pjp"])
def test_rarer_endings_of_jpegs_are_read(tmp_path, fill, suffix):
    fill(tmp_path, **{f"a{suffix}": None})
    assert suffix in SUFFIXES and read_image(tmp_path / f"a{suffix}").mode == "RGB"


def test_a_picture_of_two_views_is_read(tmp_path, paint):
    file = io.BytesIO()
    paint(32, 32).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))], quality=95)
    (tmp_path / "a.mpo").write_bytes(file.getvalue())
    assert read_image(tmp_path / "a.mpo").getpixel((0, 0))[0] > 200, "the first of the two"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of Git LFS, not the picture"),
        ("<!DOCTYPE html><html>", "is a web page or a server's answer"),
        ("\ufeff\n{'error': 1}", "is a web page or a server's answer"),
        ("../../blobs/1f3c", "is the path of a link, not the picture"),
        (b"bplist00\0", "is a placeholder of iCloud"),
        (b"\x1f\x8b\x08", "is packed"),
        (b"PK\3\4", "is packed"),
        (b"\n\xff\xd8\xff\xe0", "has bytes before the picture"),
        (b"II*\0\x08", "is a TIFF of a kind that Limner cannot read"),
        (b"\0\0\0\x18ftypheic", "is HEIC, which needs a plug-in"),
        (b"\0\0\0\x18ftypavif", "is AVIF, which this Pillow cannot read"),
        ("a cat", "is not a picture that Limner can read"),
    ],
)
def test_strangers_are_called_by_what_they_are(tmp_path, fill, content, reason):
    fill(tmp_path, **{"a.png": content})
    assert strange(tmp_path / "a.png").startswith(reason) or reason in strange(tmp_path / "a.png")


def encoded(picture: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 33)])
def test_a_whole_picture_has_no_flaw(mode, size):
    assert png_damage(encoded(Image.new(mode, size))) == ""


def test_animation_and_many_chunks_have_no_flaw():
    frames = [noise(300, 200), noise(300, 200)]
    assert png_damage(encoded(frames[0], save_all=True, append_images=frames[1:])) == ""
    assert encoded(noise(300, 200)).count(b"IDAT") > 1
    assert png_damage(encoded(noise(300, 200))) == ""


def interlaced(width: int, height: int, *, less: int = 0) -> bytes:
    """Gray, Adam7, made by the specification: rows of seven passes, each with filter 0."""
    starts = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for x, y, dx, dy in starts:
        across = len(range(x, width, dx))
        rows += b"".join(bytes(1 + across) for _ in range(y, height, dy) if across)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    pixels = zlib.compress(rows[: len(rows) - less])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (8, 8), (33, 17)])
def test_interlaced_rows_are_counted(size):
    assert png_damage(interlaced(*size)) == ""
    assert "bytes of pixels" in png_damage(interlaced(*size, less=1))


def test_what_pillow_reads_without_a_word_is_refused(tmp_path):
    smooth = noise(6, 6).resize((48, 48))
    data, quiet = encoded(smooth), 0
    for seed in range(40):
        draw = random.Random(seed)
        keep = draw.randrange(60, len(data) - 40)
        torn = data[:keep] + bytes(len(data) - keep)
        path = tmp_path / f"{seed}.png"
        path.write_bytes(torn)
        with pytest.raises(BadImage, match="is damaged"):
            inspect(path)
        try:
            Image.open(path).load()
        except (OSError, SyntaxError):
            continue
        quiet += 1
    assert quiet > 5  # else Pillow has learnt it, and this module may go


SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
"""Chromaticities of red, green, blue: IEC 61966-2-1, SMPTE EG 432-1, Adobe RGB (1998)."""
WHITE = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(primaries):
    """RGB of a space with white D65 -> XYZ (Lindbloom, RGB/XYZ matrices)."""
    x, y = np.array(primaries).reshape(3, 2).T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    return columns * np.linalg.solve(columns, WHITE)


def srgb_curve(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def srgb_uncurve(value):
    value = np.clip(value, 0, 1)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


def fixed(number):
    return struct.pack(">i", round(number * 65536))


def curve_tag(gamma):
    if gamma == "srgb":
        parts = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        return b"para\0\0\0\0\0\3\0\0" + b"".join(map(fixed, parts))
    return b"para\0\0\0\0\0\0\0\0" + fixed(gamma)


def text_tag(text):
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 4 (ICC.1:2010, sections 7.2 and 7.3)."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x04200000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(24) + fixed(0) + b"".join(map(fixed, D50))
    head = head[:64] + bytes(4) + b"".join(map(fixed, D50)) + bytes(48)
    return head[:128] + struct.pack(">I", len(tags)) + table + body


def rgb_profile(primaries, gamma, name="wide"):
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ WHITE)) @ BRADFORD
    columns = (adapt @ to_xyz(primaries)).T
    tags = {b"desc": text_tag(name), b"cprt": text_tag("none")}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, D50))
    for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, column))
        tags[letter + b"TRC"] = curve_tag(gamma)
    return profile(b"RGB ", tags)


def gray_profile(gamma):
    tags = {b"desc": text_tag("gray"), b"cprt": text_tag("none"), b"kTRC": curve_tag(gamma)}
    return profile(b"GRAY", tags | {b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(fixed, D50))})


def expected(levels, primaries, gamma):
    """What sRGB has of levels in another space, by the definitions of both."""
    linear = srgb_curve(levels / 255) if gamma == "srgb" else (levels / 255) ** gamma
    to_srgb = np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)
    return 255 * srgb_uncurve(linear @ to_srgb.T)


@pytest.fixture
def swatches():
    """Colours that both spaces hold: (16, 16, 3), no channel far from the others."""
    draw = np.random.default_rng(5)
    gray = draw.integers(60, 200, (16, 16, 1))
    return (gray + draw.integers(-40, 41, (16, 16, 3))).astype(np.uint8)


@pytest.mark.parametrize(("primaries", "gamma"), [(P3, "srgb"), (ADOBE, 563 / 256)])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_wide_colours_become_those_of_srgb(tmp_path, swatches, primaries, gamma, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(swatches).save(path, icc_profile=rgb_profile(primaries, gamma), **options)
    read = np.asarray(read_image(path)).astype(float)
    assert np.abs(read - expected(swatches, primaries, gamma)).max() < 1.5
    assert np.abs(read - swatches).mean() > 2, "unconverted pixels are told from result ones"
    assert "icc_profile" not in read_image(path).info
    assert format_info(path).profile == "wide"


def test_display_p3_red_of_a_phone(tmp_path):
    image = Image.new("RGB", (64, 64), (128, 51, 51))
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=rgb_profile(P3, "srgb"))
    read = np.asarray(read_image(tmp_path / "a.jpg", at_least=(8, 8)))
    assert np.abs(read.astype(int) - np.array([139, 44, 48])).max() <= 2
    assert np.abs(read - expected(np.array([128, 51, 51]), P3, "srgb")).max() <= 2


def test_a_profile_that_is_srgb_changes_no_bit(tmp_path, swatches):
    ours = rgb_profile(SRGB, "srgb")
    theirs = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in (("ours.png", ours), ("theirs.png", theirs)):
        Image.fromarray(swatches).save(tmp_path / name, icc_profile=data)
        assert np.array_equal(np.asarray(read_image(tmp_path / name)), swatches)
        assert format_info(tmp_path / name).profile == ""


def test_a_gray_profile_bends_grays(tmp_path):
    ramp = np.arange(0, 256, dtype=np.uint8)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "8.png", icc_profile=gray_profile(1.8))
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "16.png", icc_profile=gray_profile(1.8))
    for name in ("8.png", "16.png"):
        read = np.asarray(read_image(tmp_path / name))[0]
        assert np.abs(read - 255 * srgb_uncurve((np.arange(256) / 255) ** 1.8)[:, None]).max() < 1.5, name


def test_transparent_and_palette_pictures_are_converted_before_they_are_put_on_white(tmp_path):
    p3 = rgb_profile(P3, "srgb")
    half = Image.new("RGBA", (8, 8), (128, 51, 51, 128))
    half.save(tmp_path / "half.png", icc_profile=p3)
    red = expected(np.array([128, 51, 51]), P3, "srgb")
    want = red * 128 / 255 + 255 * 127 / 255
    assert np.abs(np.asarray(read_image(tmp_path / "half.png"))[0, 0] - want).max() < 2
    Image.new("RGB", (8, 8), (128, 51, 51)).quantize(4).save(tmp_path / "pal.png", icc_profile=p3)
    assert np.abs(np.asarray(read_image(tmp_path / "pal.png"))[0, 0] - red).max() < 2


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 200, gray_profile(2.2), rgb_profile(P3, 2.2)[:300]])
def test_a_profile_that_cannot_be_used_leaves_the_pixels_and_is_named(tmp_path, swatches, data):
    Image.fromarray(swatches).save(tmp_path / "a.png", icc_profile=data)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), swatches)
    assert format_info(tmp_path / "a.png").profile == (formats.BROKEN_PROFILE if data else "")


def test_threads_share_one_transform(swatches):
    file = io.BytesIO()
    Image.fromarray(swatches.repeat(16, 0).repeat(16, 1)).save(file, "PNG", icc_profile=rgb_profile(P3, 2.2))

    def convert(_: int) -> bytes:
        image = Image.open(io.BytesIO(file.getvalue()))
        image.load()
        return formats.to_srgb(image).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(convert, range(32)))) == 1
