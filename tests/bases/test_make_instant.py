import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from limner.bases import make_instant
from limner.bases.demo_sets import NOUNS, folder
from limner.bases.make_instant import ENDINGS, InstantConfig, Training, frozen_parts, rate_at, train
from limner.bases.style_sets import Batches, Drawings, encode_captions, encode_images
from limner.hyper.predictor import FILE, Predictor, PredictorConfig, pixels_of
from limner.hyper.targets import fingerprint, targets_of
from limner.models import registry
from limner.models.registry import embedded_bases, embedded_predictors
from limner.nn.layers import per_sample

CONFIG = InstantConfig(minutes=1, static_minutes=0.2, styles=2, targets=2)


@pytest.fixture
def parts(tiny_parts):
    targets = targets_of(tiny_parts["transformer"], ENDINGS)
    per_sample.attach(tiny_parts["transformer"], [target.name for target in targets])
    return tiny_parts | {"targets": targets}


def training(parts, folder, config=CONFIG) -> Training:
    torch.manual_seed(0)
    sizes = PredictorConfig(base="tiny", targets=parts["targets"], rank=2, width=16, bottleneck=4)
    return Training(Predictor(sizes), config, folder)


@pytest.fixture(scope="module")
def batches(whole_parts, broad_art) -> Batches:
    return Batches(Drawings(broad_art, 24, 64), whole_parts, styles=2, targets=2, seed=0)


def test_the_rate_is_constant_and_then_falls_in_a_line():
    rates = [rate_at(share, CONFIG) for share in (0, 0.6, 0.8, 1.0, 1.2)]
    assert rates == pytest.approx([1.0, 1.0, 0.525, 0.05, 0.05])


def test_the_static_part_is_trained_first_and_then_everything(parts, batches, tmp_path, looked_at):
    looked_at(60)
    run = training(parts, tmp_path)
    before = {name: weight.clone() for name, weight in run.predictor.state_dict().items()}
    rows = []

    def watch(state: Training) -> dict[str, float]:
        names = [
            name
            for name, weight in state.predictor.state_dict().items()
            if not torch.equal(weight, before[name])
        ]
        rows.append(names)
        return {"watched": len(rows)}

    train(run, parts, batches, watch)
    assert rows[0] and all(name.startswith("static") for name in rows[0])
    assert set(rows[-1]) > set(rows[0]) and "inner" in rows[-1]
    assert [row["watched"] for row in run.rows] == list(range(1, len(rows) + 1))
    assert run.step == run.rows[-1]["step"] > 4
    assert not any(weight.requires_grad for weight in parts["transformer"].parameters())


def test_a_run_goes_on_where_its_checkpoint_stands(parts, batches, tmp_path, looked_at):
    looked_at(30)
    run = training(parts, tmp_path)
    train(run, parts, batches, lambda state: {"loss of": state.step})
    run.average.swap()  # the checkpoint holds weights and average as they were in the loop
    other = training(parts, tmp_path)
    other.resume()
    assert (other.step, other.seconds, other.rows) == (run.step, run.seconds, run.rows)
    for first, second in zip(run.parameters, other.parameters, strict=True):
        assert torch.equal(first, second)
        state, copy = run.optimizer.state[first], other.optimizer.state[second]
        assert all(torch.equal(state[name], copy[name]) for name in state)
    for first, second in zip(run.average.shadow, other.average.shadow, strict=True):
        assert torch.equal(first, second)


def test_without_a_checkpoint_a_run_begins(parts, tmp_path):
    run = training(parts, tmp_path)
    run.resume()
    assert run.step == 0


def test_a_batch_serves_two_steps_with_other_noise(parts, batches, tmp_path, looked_at, monkeypatch):
    looked_at(40)
    calls = []

    def losses(models, latents, noise, times, text):
        calls.append((latents.clone(), noise, times))
        return make_instant_losses(models, latents, noise, times, text)

    make_instant_losses = make_instant.instant_exam.losses
    monkeypatch.setattr(make_instant.instant_exam, "losses", losses)
    train(training(parts, tmp_path), parts, batches, lambda state: {})
    first, second, third = calls[:3]
    assert torch.equal(first[0], second[0]) and not torch.equal(second[0], third[0])
    assert not torch.equal(first[1], second[1]) and not torch.equal(first[2], second[2])


def test_some_steps_see_the_first_ranks_alone(parts, batches, tmp_path, looked_at, monkeypatch):
    looked_at(40)
    ranks = []

    def bind(model, pairs):
        ranks.append(
            {down.shape[1] for down, _ in pairs.values()} | {up.shape[2] for _, up in pairs.values()}
        )
        per_sample_bind(model, pairs)

    per_sample_bind = make_instant.per_sample.bind
    monkeypatch.setattr(make_instant.per_sample, "bind", bind)
    train(training(parts, tmp_path, replace(CONFIG, cut_share=0.5)), parts, batches, lambda state: {})
    assert all(rank in ({1}, {2}) for rank in ranks) and {1} in ranks and {2} in ranks
    ranks.clear()
    looked_at(20)
    train(training(parts, tmp_path / "b", replace(CONFIG, cut_share=0.0)), parts, batches, lambda state: {})
    assert ranks and all(rank == {2} for rank in ranks)


def test_the_embedded_base_takes_the_predicted_layers():
    models, targets = frozen_parts(embedded_bases()["glyph"], ENDINGS)
    assert len(targets) == 55 and len(per_sample.attached(models["transformer"])) == 55
    assert sum(target.inputs + target.outputs for target in targets) == 48_640
    assert not any(weight.requires_grad for weight in models["transformer"].parameters())


def test_what_is_written_says_how_it_was_made(parts, tmp_path):
    run = training(parts, tmp_path)
    run.step, run.seconds, run.rows = 7, 3.5, [{"step": 7}]
    make_instant._write(run)
    assert Predictor.load(tmp_path / FILE).record["steps"] == 7
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["rows"] == [{"step": 7}] and record["config"]["seed"] == 0


def test_a_run_goes_on_from_a_predictor_whose_checkpoint_is_gone(parts, batches, tmp_path, looked_at):
    looked_at(40)
    before = training(parts, tmp_path / "before")
    before.step, before.seconds, before.rows = 700, 0.0, [{"step": 700}]
    make_instant._write(before)
    run = Training.start(tmp_path / "before", CONFIG, tmp_path / "after")
    assert (run.step, run.first_step, run.rows) == (700, 700, [{"step": 700}])
    for first, second in zip(before.parameters, run.parameters, strict=True):
        assert second.requires_grad and torch.equal(first.bfloat16().float(), second)
    rates = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    train(run, parts, batches, lambda state: {"loss of": state.step})
    assert rates[0] == pytest.approx(CONFIG.rate / 100) and rates[1] == pytest.approx(CONFIG.rate / 50)
    assert run.rows[0] == {"step": 700} and run.rows[1]["step"] > 700


def test_a_new_predictor_is_used_as_one_that_goes_on(parts, tmp_path):
    sizes = PredictorConfig(base="tiny", targets=parts["targets"], rank=2, width=16, bottleneck=4)
    make_instant._write(training(parts, tmp_path / "before"))
    arguments = ["--art", "art.npz", "--out", str(tmp_path / "after")]
    for options in (arguments, [*arguments, "--start", str(tmp_path / "before"), "--cut-share", "0"]):
        args = make_instant._parser().parse_args(options)
        run = make_instant.style_training(args, make_instant._config(args), sizes)
        assert run.predictor.config.lora_on == "both" and run.predictor.config.strength == 1.0
    assert not run.predictor.config.nested


def test_it_is_installed_where_the_package_looks(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path / "bases")
    (tmp_path / "bases" / "glyph").mkdir(parents=True)
    make_instant._write(training(parts, tmp_path / "out"))
    place = make_instant.install(tmp_path / "out")
    assert embedded_predictors() == {"glyph": place}
    assert {path.name for path in place.iterdir()} == {FILE, "training.json"}


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor.load(embedded_predictors()["glyph"])


def test_the_shipped_predictor_is_for_the_embedded_base_and_small(shipped):
    folders = embedded_bases()["glyph"], embedded_predictors()["glyph"]
    models, targets = frozen_parts(folders[0], ENDINGS)
    assert shipped.base.name == "glyph" and shipped.base.targets == fingerprint(targets)
    assert (folders[1] / FILE).stat().st_size <= 10e6
    assert len(models) == 6


@pytest.mark.parametrize(("name", "most"), [("blueprint", 0.8), ("ink", 0.9)])
def test_a_pass_of_the_shipped_predictor_lowers_the_loss_of_other_nouns(shipped, name, most):
    """Four pictures of a style that nobody trained on; the loss is that of the other six."""
    images = pixels_of([Image.open(path) for path in sorted(folder(name).glob("*.png"))], 64)
    models, _ = frozen_parts(embedded_bases()["glyph"], ENDINGS)
    text = encode_captions(models, list(NOUNS[4:]))
    latents = encode_images(models["vae"], images[4:].float() / 255)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    times = (torch.arange(6) + 0.5) / 6
    losses = []
    for pairs in (None, shipped(images[None, :4])):
        with per_sample.bound(models["transformer"], pairs), torch.no_grad():
            losses.append(make_instant.instant_exam.losses(models, latents, noise, times, text).mean().item())
    assert losses[1] < most * losses[0]
