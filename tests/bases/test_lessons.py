import numpy as np
import torch

from limner.bases.art import STYLES, Art, nouns
from limner.bases.lessons import STYLE_NAMES, School, is_held_out, roughen


def art() -> Art:
    """Two nouns of a base and one that is not, each in every style: squares of different greys."""
    names = [*list(nouns())[:2], list(nouns())[200]]
    pairs = [(noun, style) for noun in names for style in STYLES]
    rgba = np.full((len(pairs), 128, 128, 4), 255, np.uint8)
    rgba[..., :3] = np.linspace(0, 200, len(pairs), dtype=np.uint8)[:, None, None, None]
    return Art(rgba, np.array([style for _, style in pairs]), np.array([noun for noun, _ in pairs]))


def school(batch: int = 8) -> School:
    return School(art(), 2, None, batch=batch, side=32, device=torch.device("cpu"))


def test_every_noun_has_a_label_and_those_of_the_base_come_more_often() -> None:
    lesson = school().draw(0, 64, varied_share=0.0)
    assert lesson.images.shape == (64, 3, 32, 32)
    assert set(lesson.concept.tolist()) == {0, 1, 200}
    assert 0.7 < float((lesson.concept < 2).float().mean()) < 0.95
    assert set(lesson.style.tolist()) <= set(range(len(STYLES)))
    assert float(lesson.subject.sum()) == 0


def test_a_look_is_the_style_of_its_picture() -> None:
    lesson = school().draw(0, 128, varied_share=1.0)
    seen = {STYLE_NAMES[number] for number in lesson.style.tolist()}
    assert "blueprint" in seen
    assert "neon" in seen
    assert seen & set(STYLES)


def test_a_step_has_the_same_pictures_whenever_it_is_asked() -> None:
    one, other = school(), school()
    assert torch.equal(one.lesson(4).images, other.lesson(4).images)
    assert not torch.equal(one.lesson(5).images, other.lesson(6).images)


def test_roughened_pictures_stay_pictures() -> None:
    pictures = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rough = roughen(pictures, torch.Generator().manual_seed(1))
    assert rough.shape == pictures.shape
    assert float(rough.min()) >= 0
    assert float(rough.max()) <= 1
    assert not torch.equal(rough, pictures)


def test_one_pair_in_ten_is_kept() -> None:
    pairs = [(noun, style) for noun in nouns() for style in STYLES]
    assert 0.07 < sum(is_held_out(*pair) for pair in pairs) / len(pairs) < 0.13
