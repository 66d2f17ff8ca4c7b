import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from limner.data import colour
from limner.data.images import format_info, read_image

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
    assert format_info(tmp_path / "a.png").profile == (colour.BROKEN_PROFILE if data else "")


def test_threads_share_one_transform(swatches):
    file = io.BytesIO()
    Image.fromarray(swatches.repeat(16, 0).repeat(16, 1)).save(file, "PNG", icc_profile=rgb_profile(P3, 2.2))

    def convert(_: int) -> bytes:
        image = Image.open(io.BytesIO(file.getvalue()))
        image.load()
        return colour.to_srgb(image).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(convert, range(32)))) == 1
