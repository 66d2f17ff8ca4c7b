from pathlib import Path

import pytest

from limner.assembly.resolve import resolve
from limner.errors import BadCheckpoint, BadData, BadRecipe, BadUsage
from limner.hyper.predictor import FILE, Predictor
from limner.lora import file
from limner.prediction import InstantOptions, instant
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import train
from messages import raises
from small import Told, equal, generated, losses, weights
from style_folders import predictor_recipe, style_folders
from tiny_edit import qwen_encoder


@pytest.fixture(scope="module")
def styles(tmp_path_factory) -> Path:
    return style_folders(tmp_path_factory.mktemp("data") / "styles", 4, 5)


def test_a_run_that_was_stopped_goes_on_to_the_same_predictor(tiny_base, styles, tmp_path):
    changes = {"train": {"ema": 0.9}, "instant": {"static_steps": 1, "references": [1, 2]}}
    wish = predictor_recipe(tiny_base, styles, **changes)
    told = Told()
    train(wish, tmp_path / "whole", told)
    half = predictor_recipe(tiny_base, styles, **{**changes, "train": {"ema": 0.9, "steps": 2}})
    train(half, tmp_path / "parts", Reporter())
    train(wish, tmp_path / "parts", Reporter())
    assert equal(weights(tmp_path / "whole", 4), weights(tmp_path / "parts", 4))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert "Held out: 1 of 4 styles" in told.text
    runs = [RunDir(tmp_path / name) for name in ("whole", "parts")]
    one, other = (Predictor.load(run.predictor_path) for run in runs)
    assert one.record["steps"] == 4 and equal(one.state_dict(), other.state_dict())


def test_a_second_expert_begins_as_the_first_and_leaves_it_as_it_is(tiny_base, styles, tmp_path):
    """Fine beside coarse, then a bias beside both: a LoRA file."""
    coarse = tmp_path / "coarse" / "predictor"
    train(predictor_recipe(tiny_base, styles, train={"steps": 2}), tmp_path / "coarse", Reporter())
    before = (coarse / FILE).read_bytes()
    fine = predictor_recipe(
        tiny_base,
        styles,
        train={"steps": 2},
        lora={"rank": 1},
        instant={"experts": [str(coarse)], "side": 48},
    )
    train(fine, tmp_path / "fine", Reporter())
    assert losses(tmp_path / "fine")[0][2] == pytest.approx(losses(tmp_path / "coarse")[-1][2], abs=2e-3)
    assert (coarse / FILE).read_bytes() == before
    learner = Predictor.load(tmp_path / "fine" / "predictor")
    assert learner.config.side == 48 and learner.config.rank == 1
    experts = {"encoders": [], "experts": [str(coarse), str(tmp_path / "fine" / "predictor")]}
    bias = train(
        predictor_recipe(tiny_base, styles, train={"steps": 2}, instant=experts),
        tmp_path / "bias",
        Reporter(),
    )
    assert bias.lora is not None
    adapter = file.read(bias.lora).components["transformer"]
    assert {factors.rank for factors in adapter.values()} == {2}
    assert any(factors.up.abs().max() > 0 for factors in adapter.values())


def test_the_folder_makes_loras(tiny_base, styles, tmp_path):
    """What comes out of a run is what ``limner instant --predictor`` takes, with its encoders."""
    folder = str(qwen_encoder(tmp_path / "encoders").parent)
    looks = {"encoders": ["pixels", "qwen2.5-vl"], "encoder_folder": folder}
    recipe = predictor_recipe(tiny_base, styles, train={"steps": 2}, instant=looks)
    done = train(recipe, tmp_path / "run", Told())
    assert done.lora is None and done.model == tmp_path / "run" / "predictor"
    report = instant(
        [styles / "style-0"],
        str(tiny_base),
        tmp_path / "style.safetensors",
        InstantOptions(predictor=str(done.model), encoders=folder),
        Told(),
    )
    assert report.images == 5 and report.rank == 2
    assert set(file.read(report.lora).components) == {"transformer"}
    with raises(BadUsage):
        generated(tmp_path / "run", tmp_path / "images", "a cat")


def test_sizes_do_not_change_within_a_run(tiny_base, styles, tmp_path):
    train(predictor_recipe(tiny_base, styles, train={"steps": 1}), tmp_path / "run", Reporter())
    with raises(BadCheckpoint):
        train(predictor_recipe(tiny_base, styles, instant={"width": 24}), tmp_path / "run", Reporter())


def test_what_is_no_set_of_styles_is_told_before_anything_is_computed(tiny_base, styles):
    with raises(BadData):
        resolve(predictor_recipe(tiny_base, styles, data={"validation_count": 4}))
    with raises(BadData):
        other = {"validation_count": None, "validation_images": str(styles)}
        resolve(predictor_recipe(tiny_base, styles, data=other))
    wrong = predictor_recipe(tiny_base, styles, lora={"targets": ["no_layer"]})
    with raises(BadRecipe):
        resolve(wrong).spec.skeleton("predictor")
