import numpy as np
from PIL import Image, ImageDraw, ImageFont

from limner.data.overlay import frames, shared


def scene(seed: int, mark: str = "") -> np.ndarray:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(40, 200, (12, 16, 3), dtype=np.uint8))
    page = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    if mark:
        font = ImageFont.load_default(34)
        ImageDraw.Draw(page, "RGBA").text((440, 420), mark, font=font, fill=(255, 255, 255, 150))
    return np.asarray(page)


def test_a_mark_that_pictures_share_is_found_with_its_place():
    every = [frames(scene(seed, "© STOCKPIX" if seed in (1, 3, 4) else "")) for seed in range(8)]
    assert shared(every) == [([1, 3, 4], "bottom right")]


def test_a_mark_on_a_rich_ground_is_found_by_what_the_others_share():
    rough = np.random.default_rng(9).normal(0, 30, (480, 640, 3))

    def rich(seed: int, mark: str) -> np.ndarray:
        return frames(np.clip(scene(seed, mark) + rough, 0, 255).astype(np.uint8))

    every = [frames(scene(seed, "© STOCKPIX" if seed < 3 else "")) for seed in range(6)]
    every += [rich(6, "© STOCKPIX"), rich(7, "")]
    assert shared(every) == [([0, 1, 2, 6], "bottom right")]
    alone = every[:1] + every[3:]
    assert shared(alone) == [], "two are too few to tell"


def test_without_one_nothing_is_said():
    assert shared([frames(scene(seed)) for seed in range(8)]) == []
    assert shared([frames(scene(0, "© STOCKPIX"))] * 2) == []
    assert shared([frames(np.full((300, 300, 3), 9, np.uint8))] * 5) == []
