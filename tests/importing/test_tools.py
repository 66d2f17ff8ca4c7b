from pathlib import Path

import pytest

from importing import corpus
from limner.errors import BadUsage
from limner.importing.importer import import_recipe
from limner.importing.options import Configuration, ForeignOption
from limner.importing.tools import trainer_of
from limner.recipe.foreign import IMPORTED, config_name


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("toolkit.yaml", corpus.TOOLKIT),
        ("one.json", corpus.ONE_TRAINER),
        ("simple.json", corpus.SIMPLE_TUNER),
        ("config.toml", corpus.KOHYA_TOML),
        ("config.json", '{"pretrained_model_name_or_path": "x", "train_data_dir": "img"}'),
        ("dataset.toml", corpus.KOHYA_DATASET),
        ("bare.toml", '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img"\n'),
        ("musubi.toml", '[[datasets]]\nimage_directory = "img"\nresolution = [512, 512]\n'),
    ],
)
def test_what_train_says_can_be_imported_is(tmp_path: Path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text)
    assert config_name(path) in IMPORTED
    imported = import_recipe(path)
    assert imported.recipe.data.images == Path("img") or imported.recipe.data.sets or "img" not in text
