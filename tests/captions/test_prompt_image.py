import base64
import io

from PIL import Image

from limner.captions.prompt_image import fitted, prompt_image
from limner.data.images import BadImage
from messages import raises


def test_sizes_fit_and_never_grow():
    assert fitted(4000, 3000, 1024) == (1024, 768)
    assert fitted(300, 200, 1024) == (300, 200)
    assert fitted(10_000, 1, 100) == (100, 1)


def test_a_copy_is_small_upright_and_bare(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "MY-CAMERA"
    exif.get_ifd(0x8825)[1] = "N"
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.jpg", exif=exif, comment=b"a secret")
    copy = prompt_image(tmp_path / "a.jpg", 100)
    opened = Image.open(io.BytesIO(base64.b64decode(copy.base64)))
    assert (copy.width, copy.height) == opened.size == copy.image.size == (50, 100)
    assert not opened.getexif()
    assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"MY-CAMERA" not in copy.jpeg
    assert b"secret" not in copy.jpeg


def test_a_damaged_image_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with raises(BadImage):
        prompt_image(tmp_path / "a.png", 100)
