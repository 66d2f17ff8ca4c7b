import json
import time
from pathlib import Path

import pytest

from limner.recipe import Recipe, foreign
from limner.recipe.toml import dump

KOHYA = '[general]\nseed = 1\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "img"\n'
MUSUBI = '[general]\nbatch_size = 1\n\n[[datasets]]\nimage_directory = "img"\n'
AI_TOOLKIT = "---\njob: extension\nconfig:\n  name: x\n  process:\n  - type: sd_trainer\n"
PIPE = 'micro_batch_size_per_gpu = 1\n[model]\ntype = "flux"\n[adapter]\ntype = "lora"\n'
ONE_TRAINER = {"training_method": "LORA", "model_type": "FLUX_DEV_1", "base_model_name": "x"}
SIMPLE_TUNER = [{"id": "x", "type": "local", "instance_data_dir": "img"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dataset.toml", KOHYA, "a dataset config of kohya's sd-scripts or musubi-tuner"),
        ("dataset.toml", MUSUBI, "a dataset config of kohya's sd-scripts or musubi-tuner"),
        (
            "config.toml",
            'network_module = "networks.lora"\nnetwork_dim = 4\n',
            "a config of kohya's sd-scripts",
        ),
        ("train.yaml", AI_TOOLKIT, "a config of ai-toolkit"),
        ("train.json", {"job": "extension", "config": {"process": []}}, "a config of ai-toolkit"),
        ("config.toml", PIPE, "a config of diffusion-pipe"),
        (
            "dataset.toml",
            '[[directory]]\npath = "x"\nnum_repeats = 1\n',
            "a dataset config of diffusion-pipe",
        ),
        ("config.json", ONE_TRAINER, "a config of OneTrainer"),
        ("multidatabackend.json", SIMPLE_TUNER, "a dataset config of SimpleTuner"),
        ("config.json", {"model_family": "flux", "model_type": "lora"}, "a config of SimpleTuner"),
        (
            "config.json",
            {"pretrained_model_name_or_path": "x", "train_data_dir": "y"},
            "a config of kohya's sd-scripts",
        ),
        ("list.json", [{"instance_prompt": "x", "instance_data_dir": "y"}], "a concepts list of DreamBooth"),
        ("ds.json", {"zero_optimization": {"stage": 2}}, "a config of DeepSpeed"),
        ("flow.json", {"last_node_id": 3, "nodes": []}, "a workflow of ComfyUI"),
        ("adapter_config.json", {"peft_type": "LORA"}, "an adapter's config of peft"),
        ("x.json", {"a": 1}, "JSON, and a recipe is TOML"),
        ("x.yml", "a: 1\n", "YAML, and a recipe is TOML"),
        ("x.toml", "[lora]\nranks = 1\n", ""),
        ("x.toml", b"\xff\0", ""),
    ],
)
def test_configs_of_other_programs_are_told_by_their_keys(tmp_path, name, content, words):
    path = tmp_path / name
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert foreign.config_name(path) == words


def test_what_to_do_with_a_config_is_told_for_each_kind():
    names = {name for name, _ in foreign.CONFIGS}
    assert names > foreign.IMPORTED | foreign.PARTS
    assert foreign.remedy("a config of OneTrainer", Path("x.json")).endswith("limner import x.json")
    assert "the config that names it" in foreign.remedy("a dataset config of SimpleTuner", Path("x.json"))
    assert foreign.remedy("a workflow of ComfyUI", Path("x.json")).startswith("Name a folder of images")


def test_a_recipe_of_ours_is_nobody_elses(tmp_path):
    (tmp_path / "recipe.toml").write_text(dump(Recipe()))
    assert foreign.config_name(tmp_path / "recipe.toml") == ""


@pytest.mark.parametrize(
    "text", ["[" * 300_000, "- " * 150_000, 'id"' * 100_000, "[" * 150_000 + "id]" + " " * 99]
)
def test_a_text_of_brackets_is_told_at_once(tmp_path, text):
    (tmp_path / "deep.json").write_text(text)
    start = time.perf_counter()
    assert foreign.config_name(tmp_path / "deep.json") == "JSON, and a recipe is TOML"
    assert time.perf_counter() - start < 5
