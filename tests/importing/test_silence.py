# ruff: noqa: E501  configurations stand as people write them
from pathlib import Path
from typing import Any

import pytest

from importing import corpus
from limner.importing.importer import import_recipe
from limner.importing.silence import SCALED_LOSS, SILENCE, WEIGHTED_LOSS
from limner.importing.tools import TRAINERS
from limner.models.registry import families
from limner.recipe.schema import Recipe
from limner.recipe.toml import change, get

FLUX = "--pretrained_model_name_or_path black-forest-labs/FLUX.1-dev"
XL = "--pretrained_model_name_or_path stabilityai/stable-diffusion-xl-base-1.0"
SYNTH = 'train.py --dataset_base_path img --model_id_with_origin_paths "Qwen/Qwen-Image:*" --lora_target_modules to_q'


def test_what_every_trainer_assumes_are_values_of_a_recipe():
    assert SILENCE.keys() == {trainer.name for trainer in TRAINERS}
    for silence in SILENCE.values():
        for values in (silence.values, *silence.of_families.values()):
            assert change(Recipe(), values) is not None
        assert silence.of_families.keys() <= families().keys()


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        (
            "a.sh",
            f"python sdxl_train_network.py {XL} --network_module networks.lora",
            {"train.learning_rate": 2e-6, "lora.rank": 4, "lora.alpha": 1.0, "train.steps": 1600, "train.batch": 1}
            | {"train.schedule": "constant", "train.warmup": 0, "train.optimizer": "adamw"},
        ),
        ("a.sh", f"python flux_train_network.py {FLUX} --network_dim 8", {"train.guidance": 3.5, "lora.rank": 8}),
        (
            "a.sh",
            f"python flux_train_network.py {FLUX} --timestep_sampling shift",
            {"train.time_density": "sigmoid", "train.time_shift": 3.0},
        ),
        (
            "a.sh",
            "python qwen_image_train_network.py --dit qwen_image.safetensors --timestep_sampling shift",
            {"train.time_density": "sigmoid", "train.time_shift": 1.0, "train.learning_rate": 2e-6},
        ),
        (
            "a.yaml",
            "job: extension\nconfig:\n  process:\n  - model: {name_or_path: Qwen/Qwen-Image}\n    network: {type: lora}",
            {"train.learning_rate": 1e-6, "lora.rank": 4, "lora.alpha": 1.0, "data.resolution": 512},
        ),
        (
            "a.json",
            '{"training_method": "LORA", "model_type": "QWEN", "base_model_name": "Qwen/Qwen-Image", '
            '"concepts": [{"path": "img"}]}',
            {"train.learning_rate": 3e-6, "train.warmup": 200, "train.steps": 300, "data.resolution": 512},
        ),
        (
            "a.json",
            '{"model_family": "sdxl", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0", '
            '"instance_data_dir": "img", "gradient_accumulation_steps": 2}',
            {"train.learning_rate": 4e-7, "train.batch": 8, "train.clip": 2.0, "data.caption_dropout": 0.1}
            | {"train.steps": 1, "lora.alpha": None},
        ),
        (
            "a.sh",
            f"python examples/qwen_image/model_training/{SYNTH}",
            {"lora.rank": 32, "train.learning_rate": 1e-4, "train.steps": 3, "data.resolution": 1024},
        ),
        (
            "a.sh",
            f"python train_dreambooth_lora_flux.py {FLUX} --instance_data_dir=img --lr_scheduler=cosine --max_train_steps=900",
            {"train.guidance": 3.5, "train.batch": 4, "train.warmup": 500}
            | {"data.resolution": 512, "lora.alpha": 4.0},
        ),
        (
            "a.sh",
            f"python train_dreambooth_lora_sdxl.py {XL} --lr_warmup_steps=100",
            {"train.warmup": 0, "data.resolution": 1024, "lora.alpha": None, "lora.rank": 4},
        ),
    ],
)  # fmt: skip
def test_a_silent_file_becomes_what_its_trainer_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, values: dict[str, Any]
):
    monkeypatch.chdir(corpus.written(tmp_path))
    (tmp_path / name).write_text(text)
    recipe = import_recipe(tmp_path / name).recipe
    assert {key: get(recipe, key) for key in values} == values


@pytest.mark.parametrize(
    ("text", "sentence", "holds"),
    [
        (f"python flux_train_network.py {FLUX}", SCALED_LOSS, True),
        (f"python flux_train_network.py {FLUX} --model_prediction_type raw", SCALED_LOSS, False),
        (f"python sdxl_train_network.py {XL}", SCALED_LOSS, False),
        (f"python examples/qwen_image/model_training/{SYNTH}", WEIGHTED_LOSS, True),
    ],
)
def test_what_a_silent_file_has_that_cannot_be_had_is_a_row(
    tmp_path: Path, text: str, sentence: str, *, holds: bool
):
    (tmp_path / "a.sh").write_text(text)
    rows = import_recipe(tmp_path / "a.sh").rows
    assert any(row.note == sentence and row.outcome == "cannot be had" for row in rows) is holds
