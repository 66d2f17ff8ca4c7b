from collections import Counter

import pytest
import torch

from limner.bases.style_kinds import COLOURINGS, FINISHES, SHAPES
from limner.bases.styles import (
    HANDS,
    HELD_OUT_KINDS,
    PLAIN,
    WEIGHTS,
    WIDER_FINISHES,
    draw,
    render,
    widened,
)


def drawings() -> torch.Tensor:
    rgba = torch.zeros(2, 4, 32, 32)
    rgba[0, :, 8:24, 8:24] = torch.tensor([0.8, 0.2, 0.1, 1.0])[:, None, None]
    rgba[1, :, 4:20, 10:28] = torch.tensor([0.1, 0.6, 0.3, 1.0])[:, None, None]
    return rgba


def test_every_kind_that_is_drawn_can_be_rendered():
    assert set(WEIGHTS["shape"]) - {"keep"} == set(SHAPES)
    assert set(WEIGHTS["colour"]) - {"keep", "mix"} == set(COLOURINGS)
    assert set(WEIGHTS["finish"]) - {"none"} | {*HELD_OUT_KINDS, *WIDER_FINISHES} == set(FINISHES)
    assert not set(HELD_OUT_KINDS) & {*WIDER_FINISHES, *WEIGHTS["finish"]}
    assert all(PLAIN[stage] in weights for stage, weights in WEIGHTS.items())


def test_a_style_is_its_seed():
    assert draw(7) == draw(7) and draw(7) != draw(8)
    assert torch.equal(render(draw(7), drawings()), render(draw(7), drawings()))


def test_kinds_come_as_often_as_their_weights():
    styles = [draw(seed) for seed in range(3000)]
    colours = Counter(style.kinds["colour"] for style in styles)
    total = sum(WEIGHTS["colour"].values())
    assert colours["gradient"] / 3000 == pytest.approx(0.96 * WEIGHTS["colour"]["gradient"] / total, abs=0.03)
    assert 0.02 < sum(style.kinds == PLAIN for style in styles) / 3000 < 0.06
    assert 0.45 < sum(len(style.hands) == 1 for style in styles) / 3000 < 0.55
    assert all(set(style.hands) <= set(HANDS) for style in styles)


def test_kinds_that_are_held_out_come_only_when_asked_for():
    assert not any(draw(seed).kinds["finish"] in HELD_OUT_KINDS for seed in range(3000))
    for kind in HELD_OUT_KINDS:
        assert draw(3, kind).kinds["finish"] == kind


def test_training_draws_further_finishes_that_the_exam_never_has():
    styles = [draw(seed) for seed in range(3000)]
    assert not any(style.kinds["finish"] in WIDER_FINISHES for style in styles)
    assert [widened(style, 0.0) for style in styles[:50]] == styles[:50]
    wider = [widened(style, 0.3) for style in styles]
    finishes = Counter(style.kinds["finish"] for style in wider)
    assert sum(finishes[kind] for kind in WIDER_FINISHES) / 3000 == pytest.approx(0.3, abs=0.03)
    assert all(finishes[kind] > 40 for kind in WIDER_FINISHES)
    unchanged = [a == b for a, b in zip(styles, wider, strict=True)]
    assert sum(unchanged) / 3000 == pytest.approx(0.7, abs=0.03)
    number = unchanged.index(False)
    assert wider[number] == widened(styles[number], 0.3)
    assert (wider[number].colours, wider[number].numbers) == (styles[number].colours, styles[number].numbers)


@pytest.mark.parametrize("seed", range(40))
def test_images_are_whole(seed):
    images = render(draw(seed), drawings())
    assert images.shape == (2, 3, 32, 32) and images.isfinite().all()
    assert images.min() >= 0 and images.max() <= 1


def test_a_plain_style_leaves_a_drawing_on_white():
    seed = next(n for n in range(1000) if draw(n).kinds == PLAIN)
    image = render(draw(seed), drawings())[0]
    assert image[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert torch.allclose(image[:, 16, 16], torch.tensor([0.8, 0.2, 0.1]), atol=1e-5)
