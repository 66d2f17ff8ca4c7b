"""The judge learns from drawings, keeps a tenth from itself, and answers as it did before it was saved."""

from pathlib import Path

import numpy as np
import pytest
import torch

from limner.bases.art import STYLES, Art, nouns
from limner.bases.judge import Judge, JudgeConfig, Net, loss_of, style_scores, subject_score, train
from limner.bases.lessons import SKIP, STYLE_NAMES, School, is_held_out, lessons, roughen
from limner.errors import BadBase
from messages import raises

CPU = torch.device("cpu")
SIDE = 32


@pytest.fixture(scope="module")
def art() -> Art:
    """Two nouns in three styles: a disc or a bar, each style in its own colour."""
    y, x = np.mgrid[:128, :128]
    shapes = (((x - 64) ** 2 + (y - 64) ** 2) < 2000, abs(x - 64) < 14)
    rgba, styles, concepts = [], [], []
    for style, colour in zip(STYLES[:3], ((220, 30, 30), (30, 200, 40), (40, 60, 220)), strict=True):
        for noun, shape in zip(list(nouns())[:2], shapes, strict=True):
            picture = np.zeros((128, 128, 4), np.uint8)
            picture[shape] = (*colour, 255)
            rgba.append(picture)
            styles.append(style)
            concepts.append(noun)
    return Art(np.stack(rgba), np.array(styles), np.array(concepts))


def fresh(*, sure: bool = True) -> Judge:
    torch.manual_seed(0)
    return Judge(Net(4, len(STYLE_NAMES)), list(nouns())[:4], STYLE_NAMES, side=SIDE, sure=sure)


def test_a_tenth_of_the_pairs_is_kept() -> None:
    pairs = [is_held_out(noun, style) for noun in nouns() for style in STYLES]
    assert 0.06 < np.mean(pairs) < 0.14
    assert is_held_out("cat", "noto") == is_held_out("cat", "noto")


def test_roughened_pictures_stay_pictures() -> None:
    pictures = torch.rand(6, 3, 128, 128)
    made = roughen(pictures, torch.Generator().manual_seed(1))
    assert made.shape == pictures.shape
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made, roughen(pictures, torch.Generator().manual_seed(1)))
    assert not torch.equal(made, roughen(pictures, torch.Generator().manual_seed(2)))


def test_looks_are_styles_and_the_mascot_has_no_noun(art: Art) -> None:
    mascot = Art(np.full((1, 128, 128, 4), 255, np.uint8), np.array(["mascot"]), np.array(["mascot"]))
    drawn = School(art, 2, mascot, batch=8, side=SIDE, device=CPU).draw(5, 400, varied_share=1.0)
    shown = drawn.subject > 0.5
    assert 5 <= int(shown.sum()) <= 60
    assert (drawn.concept[shown] == SKIP).all()
    assert set(drawn.concept[~shown].tolist()) == {0, 1}
    assert STYLE_NAMES.index("blueprint") in drawn.style.tolist()
    plain = School(art, 2, None, batch=8, side=SIDE, device=CPU).draw(5, 64, varied_share=0.0)
    assert set(plain.style.tolist()) == {0, 1, 2}
    assert not plain.subject.any()


def test_steps_are_the_same_in_any_order(art: Art) -> None:
    first, second = (School(art, 2, None, batch=2, side=SIDE, device=CPU) for _ in range(2))
    ahead = [first.lesson(step) for step in range(2)]
    assert torch.equal(ahead[0].images, second.lesson(0).images)
    assert torch.equal(ahead[1].concept, second.lesson(1).concept)


def test_a_judge_keeps_the_answers_to_the_first_nouns() -> None:
    net = Net(6, len(STYLE_NAMES)).eval()
    pictures = torch.rand(3, 3, SIDE, SIDE)
    before = net(pictures)[0]
    net.keep(4)
    assert torch.allclose(net(pictures)[0], before[:, :4])


def test_a_judge_goes_on_from_another_that_knew_fewer_nouns() -> None:
    known, net = Net(2, len(STYLE_NAMES)).eval(), Net(6, len(STYLE_NAMES)).eval()
    pictures = torch.rand(3, 3, SIDE, SIDE)
    net.go_on(known)
    assert torch.allclose(net(pictures)[0][:, :2], known(pictures)[0], atol=1e-6)
    assert torch.equal(net(pictures)[1], known(pictures)[1])


def test_exams_ask_for_other_pairs(art: Art) -> None:
    school, exams = lessons(art, 2, batch=2, side=SIDE, device=CPU, exam=4)
    assert set(exams) == {"plain", "grounds", "all", "known"}
    assert 0 < len(school.drawings) < len(art.rgba)
    assert len(exams["all"].images) == 4


def test_gradients_reach_every_asked_head(art: Art) -> None:
    mascot = Art(np.full((1, 128, 128, 4), 255, np.uint8), np.array(["mascot"]), np.array(["mascot"]))
    net = Net(4, len(STYLE_NAMES))
    loss_of(
        net, School(art, 2, mascot, batch=2, side=SIDE, device=CPU).draw(0, 4, varied_share=0.5), subject=True
    ).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


def test_a_trained_judge_survives_saving(art: Art, tmp_path: Path) -> None:
    school, exams = lessons(art, 2, batch=2, side=SIDE, device=CPU, exam=4)
    judge = fresh()
    rows = train(judge.net, school, exams, JudgeConfig(1e-4, 2, 1e-3, 2, CPU, torch.float32))
    judge = Judge(judge.net, judge.concept_names, judge.style_names, side=SIDE, sure=True)
    judge.save(tmp_path, {"rows": rows, "figures": rows[-1]})
    assert (tmp_path / "judge.safetensors").stat().st_size < 4_000_000
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    again = Judge.load(tmp_path)
    assert again.concepts(images).shape == (3, 4)
    assert np.allclose(again.styles(images).sum(1), 1, atol=1e-5)
    assert np.allclose(again.styles(images), judge.styles(images), atol=0.05)
    assert 0 <= subject_score(again, images) <= 1


def test_scores_are_shares_of_right_answers() -> None:
    judge = fresh()
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    told = [judge.concept_names[n] for n in judge.concepts(images).argmax(1)]
    style = judge.style_names[judge.styles(images)[0].argmax()]
    found = style_scores(judge, images, told, style)
    assert found["concept"] == 1
    assert found["style"] >= 0.25


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    judge = fresh(sure=False)
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    with raises(BadBase):
        judge.concepts(images.astype(float))
    with raises(BadBase):
        style_scores(judge, images, list(judge.concept_names[:2]), "cubism")
    with raises(BadBase):
        style_scores(judge, images, list(judge.concept_names[:1]), "noto")
    with raises(BadBase):
        judge.subject(images)
    with raises(BadBase):
        Judge.load(tmp_path)
