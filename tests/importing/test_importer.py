import json
from pathlib import Path

import pytest

from importing.corpus import EXPECTED, written
from importing.more import MORE
from limner.importing.importer import import_recipe
from limner.importing.options import read
from limner.recipe.schema import Recipe
from limner.recipe.toml import dump, get, parse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written(tmp_path))
    return tmp_path


CASES = {**EXPECTED, **MORE}


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_becomes_the_recipe_that_does_the_same(folder: Path, name: str):
    text, trainer, values = CASES[name]
    (folder / name).write_text(text)
    imported = import_recipe(folder / name)
    assert imported.trainer == trainer
    assert {key: get(imported.recipe, key) for key in values} == values
    assert parse(dump(imported.recipe)) == imported.recipe


@pytest.mark.parametrize("name", CASES)
def test_no_setting_is_dropped_in_silence(folder: Path, name: str):
    (folder / name).write_text(CASES[name][0])
    keys = {row.key.partition(":")[0] for row in import_recipe(folder / name).rows}
    assert keys >= {option.key for option in read(folder / name).options}


def test_what_cannot_be_had_and_what_nobody_knows_is_named(folder: Path):
    rows = {row.key: row for row in import_recipe(folder / "kohya.sh").rows}
    assert rows["frobnicate"].outcome == "unknown"
    assert rows["highvram"].outcome == rows["launcher.mixed_precision"].outcome == "the plan decides"
    assert rows["clip_l"].outcome == "always so" and "components_from" in rows["clip_l"].note
    arguments = [row for row in import_recipe(folder / "kohya.sh").rows if row.key == "optimizer_args"]
    assert [row.outcome for row in arguments] == ["translated", "cannot be had"] and "d_coef=2" in arguments[
        1
    ].note
    assert rows["(lora.alpha)"].note.startswith("The default of sd-scripts")


def test_epochs_without_images_are_told_and_not_guessed(folder: Path):
    (folder / "alone.toml").write_text('network_dim = 4\ntrain_data_dir = "gone"\nmax_train_epochs = 3\n')
    imported = import_recipe(folder / "alone.toml")
    (row,) = (row for row in imported.rows if row.key == "max_train_epochs")
    assert row.outcome == "cannot be had" and "train.steps = epochs x images" in row.note


def test_a_dataset_file_that_is_not_here_is_told(folder: Path):
    (folder / "dataset.toml").unlink()
    rows = {row.key: row for row in import_recipe(folder / "kohya.sh").rows}
    assert rows["dataset_config"].outcome == "cannot be had" and "not here" in rows["dataset_config"].note


def test_a_value_that_a_recipe_cannot_have_is_a_row_with_the_reason(folder: Path):
    (folder / "odd.toml").write_text('network_dim = 99999\nlr_scheduler = "mystery"\nlearning_rate = 1e-4\n')
    imported = import_recipe(folder / "odd.toml")
    rows = {row.key: row for row in imported.rows}
    assert rows["network_dim"].outcome == "cannot be had" and "4096" in rows["network_dim"].note
    assert rows["lr_scheduler"].outcome == "cannot be had"
    assert imported.recipe.train.learning_rate == 1e-4


def test_more_folders_than_one_become_sets(folder: Path):
    text = '[[datasets]]\nimage_directory = "img"\n[[datasets]]\nimage_directory = "more"\n'
    (folder / "two.toml").write_text(f'dit = "qwen_image.safetensors"\n{text}')
    imported = import_recipe(folder / "two.toml")
    rows = [row for row in imported.rows if row.key.endswith("image_directory")]
    assert [row.outcome for row in rows] == ["translated", "translated"]
    assert imported.recipe.data.roots == (Path("img"), Path("more"))


def test_subsets_become_sets_with_what_each_says(folder: Path):
    subsets = """network_dim = 8
[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = "img"
class_tokens = "sks cat"
num_repeats = 3
flip_aug = true
[[datasets.subsets]]
image_dir = "more"
class_tokens = "blik dog"
[[datasets]]
resolution = 1024
[[datasets.subsets]]
image_dir = "img"
"""
    (folder / "two.toml").write_text(subsets)
    data = import_recipe(folder / "two.toml").recipe.data
    assert data.resolution == (512, 1024)
    assert [(entry.default_caption, entry.repeats, entry.flip) for entry in data.folders] == [
        ("sks cat", 3, True),
        ("blik dog", 1, False),
    ]


@pytest.mark.parametrize(
    "value", ["abc", "x=y", [1], ["a", 2], ["betas=1"], {"a": 1}, -3, 1e999, "nan", True, None]
)
def test_values_that_mean_nothing_never_end_in_a_traceback(folder: Path, value: object):
    keys = [
        "train_batch_size",
        "gradient_accumulation_steps",
        "max_train_steps",
        "max_train_epochs",
        "num_repeats",
        "resolution",
        "betas",
        "save_every_n_epochs",
        "optimizer_args",
        "adam_beta1",
        "lr_warmup_steps",
        "discrete_flow_shift",
        "network_args",
        "max_pixels",
    ]
    for key in keys:
        (folder / "odd.json").write_text(json.dumps({"network_dim": 4, key: value}))
        assert any(row.key.startswith(key) for row in import_recipe(folder / "odd.json").rows)


def test_a_variable_of_a_shell_is_a_row_and_no_base(folder: Path):
    (folder / "a.sh").write_text(
        "python sdxl_train_network.py --pretrained_model_name_or_path $MODEL --network_dim 4"
    )
    imported = import_recipe(folder / "a.sh")
    (row,) = (row for row in imported.rows if row.key == "pretrained_model_name_or_path")
    assert row.outcome == "cannot be had" and "write its value" in row.note
    assert imported.recipe.base == Recipe().base


def test_a_base_that_no_family_here_is_like_is_told(folder: Path):
    text = {"training_method": "LORA", "model_type": "WAN_2_1", "base_model_name": "Wan-AI/Wan2.1-T2V-14B"}
    (folder / "a.json").write_text(json.dumps(text))
    rows = {row.key: row for row in import_recipe(folder / "a.json").rows}
    assert rows["(base)"].outcome == "unknown" and "no family" in rows["(base)"].note
    assert rows["(train.steps)"].outcome == "cannot be had" and "epochs: 100" in rows["(train.steps)"].note
