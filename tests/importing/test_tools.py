from pathlib import Path

import pytest

from limner.errors import BadUsage
from limner.importing.options import Configuration, ForeignOption
from limner.importing.tools import TRAINERS, trainer_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import change


@pytest.mark.parametrize(
    ("script", "trainer"),
    [
        ("flux_train_network.py", "sd-scripts"),
        ("sdxl_train_network.py", "sd-scripts"),
        ("src/musubi_tuner/zimage_train_network.py", "musubi-tuner"),
        ("qwen_image_train_network.py", "musubi-tuner"),
        ("train_dreambooth_lora_sdxl.py", "diffusers"),
        ("examples/qwen_image/model_training/train.py", "DiffSynth-Studio"),
        ("simpletuner/train.py", "SimpleTuner"),
    ],
)
def test_a_trainer_is_told_by_its_script(script: str, trainer: str):
    assert trainer_of(Configuration(Path("run.sh"), script, (ForeignOption("lr", 1),))).name == trainer


def test_what_is_of_no_trainer_is_told_with_the_known_ones():
    with pytest.raises(BadUsage, match=r"ai-toolkit, .*runs finetune_llm\.py"):
        trainer_of(Configuration(Path("run.sh"), "finetune_llm.py", (ForeignOption("lr", 1),)))


def test_the_defaults_of_every_trainer_are_values_of_a_recipe():
    for trainer in TRAINERS:
        assert change(Recipe(), trainer.defaults) is not None
