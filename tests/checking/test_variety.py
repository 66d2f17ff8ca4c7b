import numpy as np
from PIL import Image

from limner.checking.variety import clusters, features


def scene(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((360, 280), Image.Resampling.BICUBIC)


def test_kinds_are_found_by_looks():
    draw = np.random.default_rng(0)
    red = [np.clip(draw.normal((200, 40, 40), 12, (90, 120, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    points = np.stack([features(each) for each in red] + [features(np.asarray(scene(s))) for s in (1, 2)])
    assert np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    found = clusters(points)
    assert found[0] == [0, 1, 2, 3] and len(found) == 3
    assert clusters(points, max_distance=2.1) == [[0, 1, 2, 3, 4, 5]]
