"""A mask is measured as training sees it: cropped with its image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.checking.mask_stats import mask_stats
from limner.data.folder import read_folder
from limner.data.views import View


def test_shares_are_those_of_the_crop(tmp_path: Path):
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (96, 48), (9, 9, 9)).save(tmp_path / "a.png")
    pixels = np.zeros((48, 96), np.uint8)
    pixels[:, :48] = 255
    pixels[12:36, 12:36] = 51
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.png")
    (example,) = read_folder(tmp_path, masks=tmp_path / "masks").examples
    thumb = Image.new("RGB", (48, 48), (9, 9, 9))
    seen = mask_stats(View(example, (48, 48), (0, 0, 48, 48), flip=False, caption=""), thumb)
    assert seen.share == pytest.approx(1 - 0.25 * 0.8) and seen.rim == 1
    assert seen.middle == pytest.approx(0.2) and not seen.flat
    whole = mask_stats(View(example, (96, 48), (0, 0, 96, 48), flip=False, caption=""), thumb)
    assert whole.share == pytest.approx(seen.share / 2) and whole.rim == pytest.approx(0.5, abs=0.05)
