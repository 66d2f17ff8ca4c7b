import numpy as np
import pytest
import torch

from limner.bases import instant_exam
from limner.bases.instant_exam import Sampling, exam, generate, loss, losses, measure
from limner.bases.judge import Judge
from limner.bases.make_instant import ENDINGS
from limner.bases.style_sets import Drawings
from limner.hyper.predictor import Predictor, PredictorConfig
from limner.hyper.targets import targets_of
from limner.nn.layers import per_sample


@pytest.fixture
def parts(tiny_parts):
    targets = targets_of(tiny_parts["transformer"], ENDINGS)
    per_sample.attach(tiny_parts["transformer"], [target.name for target in targets])
    return tiny_parts | {"targets": targets}


@pytest.fixture
def predictor(parts) -> Predictor:
    torch.manual_seed(1)
    net = Predictor(PredictorConfig(base="tiny", targets=parts["targets"], rank=2, width=16, bottleneck=4))
    with torch.no_grad():
        for weight in net.up:
            weight.normal_(0, 0.2)
    return net.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def styles(whole_parts, broad_art):
    return exam(broad_art, Drawings(broad_art, 24, 64), whole_parts, new=2, kinds=1, targets=4)


def test_the_exam_has_new_styles_unseen_kinds_and_the_demo(styles):
    assert [style.group for style in styles] == [
        *["new"] * 2,
        *["unseen kinds"] * 4,
        "blueprint",
        "ink",
        "fluent3d",
    ]
    for style in styles:
        assert style.references.shape == (8, 3, 64, 64) and style.references.dtype == torch.uint8
        assert not set(style.reference_nouns) & set(style.nouns)
        assert sorted(style.time.tolist()) == [0.125, 0.375, 0.625, 0.875]


def test_blueprint_is_pale_on_navy(styles):
    (blueprint,) = (style for style in styles if style.name == "blueprint")
    red, green, blue = blueprint.targets[:, :, 2, 2].mean(0)
    assert blue > 2 * red and blue > 2 * green


def test_a_loss_is_the_same_each_time_and_knows_its_lora(parts, styles, predictor):
    before = loss(parts, styles[0], None)
    pairs = predictor(styles[0].references[None, :2])
    after = loss(parts, styles[0], pairs)
    assert before == loss(parts, styles[0], None) and abs(after - before) > 1e-5
    assert after == loss(parts, styles[0], pairs)


def test_losses_of_a_batch_are_those_of_single_styles(parts, styles, predictor):
    batch = predictor(torch.stack([style.references[:2] for style in styles[:2]]))
    values = [loss(parts, style, predictor(style.references[None, :2])) for style in styles[:2]]
    text = {name: torch.cat([style.text[name] for style in styles[:2]]) for name in styles[0].text}
    columns = (
        torch.cat([getattr(style, name) for style in styles[:2]]) for name in ("latents", "noise", "time")
    )
    with per_sample.bound(parts["transformer"], batch), torch.no_grad():
        means = losses(parts, *columns, text).view(2, -1).mean(1)
    assert means.tolist() == pytest.approx(values, abs=1e-5)


def test_images_depend_on_lora_guidance_branch_and_seed(parts, predictor, styles):
    pairs = predictor(styles[0].references[None, :2])
    settings = {
        "plain": (None, Sampling(guidance=2.0, steps=3)),
        "lora": (pairs, Sampling(guidance=2.0, steps=3)),
        "guidance": (pairs, Sampling(guidance=3.0, steps=3)),
        "both": (pairs, Sampling(guidance=2.0, steps=3, positive_only=False)),
        "seed": (pairs, Sampling(guidance=2.0, steps=3, seed=1)),
    }
    images = {name: generate(parts, ["cat", "owl"], *setting) for name, setting in settings.items()}
    assert all(image.shape == (2, 64, 64, 3) and image.dtype == np.uint8 for image in images.values())
    assert len({image.tobytes() for image in images.values()}) == len(settings)
    again = generate(parts, ["cat", "owl"], *settings["lora"])
    assert np.array_equal(again, images["lora"])


def test_without_guidance_the_negative_branch_means_nothing(parts, predictor, styles):
    pairs = predictor(styles[0].references[None, :2])
    first, second = (
        generate(parts, ["cat"], pairs, Sampling(guidance=1.0, steps=2, positive_only=only))
        for only in (True, False)
    )
    assert np.abs(first.astype(int) - second).max() <= 1


def test_a_row_of_the_record(parts, predictor, styles, monkeypatch):
    monkeypatch.setattr(instant_exam, "TEST_NOUNS", ("cat", "owl", "no noun"))
    row = measure(parts, predictor, styles, Judge.load())
    assert set(row["loss"]) == {"new", "unseen kinds", "blueprint", "ink", "fluent3d"}
    assert set(row["judge"]) == {"blueprint", "ink"}
    values = [loss(parts, style, predictor(style.references[None, :4])) for style in styles[:2]]
    assert row["loss"]["new"] == pytest.approx(sum(values) / 2)
