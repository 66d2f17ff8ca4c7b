"""Crops are drawn where training makes them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.studio.images.crops import FRAME, bucket_counts, crop_of, with_crop
from limner.studio.images.image_set import ImageSet
from limner.studio.workspace import Workspace

Draw = Callable[..., AppTest]


def test_a_crop_is_drawn_where_training_makes_it(cats: Path, workspace: Workspace) -> None:
    Image.new("RGB", (400, 100), (200, 200, 200)).save(cats / "wide.png")
    images = ImageSet(workspace, cats)
    bucket, crop = crop_of(images, "wide.png", (400, 100), 512)
    assert bucket == (672, 384) and crop == (112, 0, 287, 100)  # 100 x 672 / 384 = 175
    stream = io.BytesIO()
    Image.new("RGB", (320, 80), (200, 200, 200)).save(stream, "JPEG")
    picture = Image.open(io.BytesIO(with_crop(stream.getvalue(), (400, 100), crop)))
    assert picture.size == (320, 80)

    def near(place: tuple[int, int], color: tuple[int, int, int]) -> bool:
        pixel: Any = picture.getpixel(place)
        return all(abs(value - target) < 40 for value, target in zip(pixel, color, strict=True))

    assert near((40, 40), (70, 70, 70)) and near((280, 40), (70, 70, 70))  # taken away: darkened
    assert near((160, 40), (200, 200, 200)) and near((90, 40), FRAME) and near((229, 40), FRAME)
    (cats / "wide.crop").write_text("0 0 100 100")
    images = ImageSet(workspace, cats)
    assert crop_of(images, "wide.png", (400, 100), 512) == ((512, 512), (0, 0, 100, 100))
    sizes = dict.fromkeys(images.files, (96, 96)) | {"wide.png": (400, 100)}
    assert bucket_counts(images, sizes, 512) == {"512 x 512": 5}
