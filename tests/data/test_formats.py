import io

import pytest
from PIL import Image

from limner.data.formats import SUFFIXES, first_bytes, format_name, odd_image, strange
from limner.data.images import read_image


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
