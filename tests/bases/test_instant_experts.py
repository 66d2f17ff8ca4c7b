import argparse
from dataclasses import replace

import pytest
import torch

from limner.bases import instant_exam
from limner.bases.instant_experts import (
    EXPERTS,
    OwnBatches,
    config_of,
    grown,
    looks_at,
    measure,
    own_losses,
    untrained,
    written,
)
from limner.bases.make_instant import ENDINGS, InstantConfig, Training, expert_training, train
from limner.bases.style_sets import Drawings, encode_captions, encode_images
from limner.hyper.predictor import FILE, VAE, Predictor, PredictorConfig
from limner.hyper.targets import targets_of
from limner.nn.layers import per_sample

CONFIG = InstantConfig(minutes=1, static_minutes=0, styles=2, targets=2, cut_share=0)


@pytest.fixture
def parts(tiny_parts):
    targets = targets_of(tiny_parts["transformer"], ENDINGS[:4])
    per_sample.attach(tiny_parts["transformer"], [target.name for target in targets])
    return tiny_parts | {"targets": targets}


@pytest.fixture
def style(parts) -> Predictor:
    """A small Style, as after some training."""
    torch.manual_seed(0)
    sizes = PredictorConfig(base="tiny", targets=parts["targets"], rank=4, width=16, bottleneck=4)
    predictor = Predictor(sizes)
    with torch.no_grad():
        for weight in (*predictor.up, *predictor.static_up):
            weight.normal_(0, 0.05)
    return predictor


@pytest.fixture(scope="module")
def batches(whole_parts, broad_art) -> OwnBatches:
    small = replace(EXPERTS["coarse"], rows=4, counts=(1, 2))
    return OwnBatches(Drawings(broad_art, 24, 64), whole_parts, small, seed=0)


def sized(style: Predictor, name: str, parts) -> PredictorConfig:
    config = config_of(style.config, EXPERTS[name], parts["vae"])
    return replace(config, bottleneck=6, detail=8)


def test_targets_are_the_references_and_no_style_comes_back(batches, whole_parts):
    """Each as often as there are copies, of one reference; captions are empty in the share that is said."""
    small = batches.expert
    for number in range(3):
        batch = batches[number]
        styles, count = batch.references.shape[:2]
        own = encode_images(batches.vae, batch.references.flatten(0, 1).float() / 255)
        targets = batch.latents.view(styles, -1, count, *own.shape[1:])
        assert targets.shape[1] == (small.copies if count == 1 else 1) and count in small.counts
        wanted = own.view(styles, 1, count, *own.shape[1:]).expand_as(targets)
        assert torch.allclose(targets, wanted, atol=0.05)
        assert len(batch.latents) == small.rows == len(batch.text["pooled"])
    assert not torch.equal(batches[0].references[0, 0], batches[1].references[0, 0])
    batches = OwnBatches(batches.drawings, whole_parts, replace(small, silent=1.0), seed=0)
    empty = encode_captions(whole_parts, [""])["pooled"]
    assert torch.equal(batches[0].text["pooled"], empty.expand(small.rows, -1))


def test_coarse_begins_as_style_and_fine_as_nothing(parts, batches, style):
    references = batches[0].references[:2]
    coarse, fine = grown(style, sized(style, "coarse", parts)), untrained(style, sized(style, "fine", parts))
    wanted = written((style,), parts["vae"], references)
    for pairs in (
        written((coarse,), parts["vae"], references),
        written((coarse, fine), parts["vae"], references),
    ):
        for name, (down, up) in pairs.items():
            assert torch.allclose(up @ down, wanted[name][1] @ wanted[name][0], atol=1e-5)
    looks = [looks_at(expert.config, parts["vae"], references)[VAE] for expert in (coarse, fine)]
    assert [look.shape[-1] for look in looks] == [4 * 4 * 4, 4 * 8 * 8]  # of half the side and of the whole


def test_fine_learns_while_coarse_stays_as_it_is(parts, batches, style, tmp_path, looked_at):
    looked_at(12)
    coarse = grown(style, sized(style, "coarse", parts)).eval().requires_grad_(requires_grad=False)
    fine = untrained(style, sized(style, "fine", parts))
    frozen = {name: weight.clone() for name, weight in coarse.state_dict().items()}
    before = {name: weight.clone() for name, weight in fine.state_dict().items()}
    rows = []
    run = Training(fine, CONFIG, tmp_path, (coarse,))
    train(run, parts, batches, lambda state: rows.append(state.step) or {"watched": len(rows)})
    assert all(torch.equal(weight, frozen[name]) for name, weight in coarse.state_dict().items())
    moved = {name for name, weight in fine.state_dict().items() if not torch.equal(weight, before[name])}
    assert {"inner", "up.0"} <= moved and any(name.startswith("detail.") for name in moved)
    assert run.rows and run.step >= 2


def test_what_is_measured_is_the_reference_itself(parts, batches, style, broad_art):
    drawings = Drawings(broad_art, 24, 64)
    images = drawings.images(instant_exam.draw(5), 8, 4, wide=False)
    exam = instant_exam._fixed("new/0", images, parts, torch.Generator().manual_seed(0))
    own = instant_exam.own_set(exam, parts)
    assert own.nouns == [noun for noun in exam.reference_nouns for _ in range(4)]
    assert torch.equal(own.targets[4], own.targets[7]) and not torch.equal(own.time[4], own.time[7])
    losses = own_losses(parts, (style,), exam)
    figures = measure(parts, (style,), [exam])
    assert figures["own image"]["new"] == pytest.approx(losses["base"] - losses["loss"], abs=1e-4)


def test_an_expert_begins_from_the_style_that_is_named(parts, style, tmp_path):
    style.save(tmp_path / "style" / FILE, {})
    args = argparse.Namespace(start=tmp_path / "style", coarse=None, expert="coarse", out=tmp_path / "out")
    run = expert_training(args, CONFIG, parts["vae"])
    assert run.predictor.config.rank == EXPERTS["coarse"].rank and not run.frozen
    run.predictor.save(tmp_path / "coarse" / FILE, {})
    args.start = tmp_path / "coarse"
    again = expert_training(args, CONFIG, parts["vae"])
    assert again.predictor.config == run.predictor.config and all(p.requires_grad for p in again.parameters)
    args.start = tmp_path / "style"
    args.expert = "fine"
    with pytest.raises(SystemExit, match="--coarse"):
        expert_training(args, CONFIG, parts["vae"])
    args.coarse = tmp_path / "coarse"
    run = expert_training(args, CONFIG, parts["vae"])
    assert run.predictor.config.rank == EXPERTS["fine"].rank and len(run.frozen) == 1
    assert run.folder == tmp_path / "out"
