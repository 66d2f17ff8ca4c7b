import numpy as np
import pytest

from encoders import save_clip, save_dino
from limner.checking.encoder import ImageEncoder, encoded
from limner.errors import BadBase
from scenes import scene


@pytest.mark.parametrize("save", [save_clip, save_dino])
def test_pictures_become_directions(tmp_path, save):
    points = encoded(str(save(tmp_path)), [scene(seed) for seed in (0, 1, 0)])
    assert points.shape == (3, 8) and np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    assert np.allclose(points[0], points[2]) and not np.allclose(points[0], points[1])


def test_texts_become_directions_where_there_is_a_text_tower(tmp_path):
    clip = ImageEncoder(str(save_clip(tmp_path / "clip")))
    points = clip.texts(["cat", "dog", "cat", "word " * 200])
    assert clip.reads_text and points.shape == (4, 8)
    assert np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    assert np.allclose(points[0], points[2]) and not np.allclose(points[0], points[1])
    assert not ImageEncoder(str(save_dino(tmp_path / "dino"))).reads_text


def test_a_model_without_its_tokenizer_is_told(tmp_path):
    folder = save_clip(tmp_path)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors", "preprocessor_config.json"):
            path.unlink()
    with pytest.raises(BadBase, match="cannot be used"):
        ImageEncoder(str(folder)).texts(["cat"])
