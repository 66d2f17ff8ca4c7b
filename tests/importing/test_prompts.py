import json
from pathlib import Path
from typing import Any

import pytest

from limner.importing.importer import Imported, import_recipe
from limner.recipe.prompt_file import PromptLine, sample_line


def imported(folder: Path, name: str, text: str) -> Imported:
    (folder / name).write_text(text)
    return import_recipe(folder / name)


def lines(translation: Imported) -> list[PromptLine]:
    return [sample_line(text, "sample.prompts") for text in translation.recipe.sample.prompts]


FIRST = {"__version": 0, "enabled": True, "prompt": "a cat", "negative_prompt": "blurry", "height": 768}
FIRST |= {"width": 512, "seed": 7, "random_seed": False, "diffusion_steps": 30, "cfg_scale": 6.5}
FIRST |= {"noise_scheduler": "DDIM", "text_encoder_1_layer_skip": 0, "base_image_path": ""}
DEFINITIONS: list[dict[str, Any]] = [
    FIRST,
    {"enabled": False, "prompt": "a dog", "height": 512},
    {"enabled": True, "prompt": "a hat", "seed": -1, "random_seed": True},
]
ONE = {"training_method": "LORA", "base_model_name": "Qwen/Qwen-Image", "model_type": "QWEN"}


@pytest.mark.parametrize("beside", [True, False])
def test_sample_definitions_of_one_trainer(tmp_path: Path, *, beside: bool):
    if beside:
        (tmp_path / "samples.json").write_text(json.dumps(DEFINITIONS))
        (tmp_path / "concepts.json").write_text('[{"path": "img", "balancing": 2}]')
        files = {
            "sample_definition_file_name": "training_samples/samples.json",
            "concept_file_name": "concepts.json",
        }
        text = json.dumps({**ONE, **files})
    else:
        text = json.dumps({**ONE, "samples": DEFINITIONS})
    translation = imported(tmp_path, "one.json", text)
    assert lines(translation) == [
        PromptLine("a cat", "blurry", width=512, height=768, seed=7, steps=30, guidance=6.5),
        PromptLine("a hat"),
    ]
    rows = {row.key.removeprefix("samples."): row for row in translation.rows}
    assert rows["1.prompt"].outcome == rows["0.base_image_path"].outcome == "off"
    assert rows["2.seed"].outcome == rows["2.random_seed"].outcome == "cannot be had"
    assert not [row.key for row in translation.rows if row.outcome == "unknown"]


def toolkit(**sample: Any) -> str:
    process = {"type": "sd_trainer", "model": {"name_or_path": "Qwen/Qwen-Image"}, "sample": sample}
    return json.dumps({"job": "extension", "config": {"process": [process]}})


def test_the_table_of_samples_of_ai_toolkit(tmp_path: Path):
    table = [
        {"prompt": "a cat", "width": 512, "height": 640, "seed": 3, "network_multiplier": "0.8"},
        {"prompt": "a dog", "neg": "ugly", "guidance_scale": 3, "sample_steps": 12, "num_frames": 1},
    ]
    general = {"neg": "blurry", "width": 1024, "seed": 42, "walk_seed": True, "prompts": ["not this"]}
    translation = imported(tmp_path, "a.yaml", toolkit(samples=table, **general))
    assert lines(translation) == [
        PromptLine("a cat", "blurry", width=512, height=640, seed=3, strength=0.8),
        PromptLine("a dog", "ugly", guidance=3.0, steps=12),
    ]
    assert translation.recipe.sample.width == 1024 and translation.recipe.sample.seed == 42
    assert not [row.key for row in translation.rows if row.outcome == "unknown"]


def test_without_a_walk_every_sample_of_ai_toolkit_has_the_same_seed(tmp_path: Path):
    translation = imported(tmp_path, "a.yaml", toolkit(prompts=["a cat", "a dog --d 5"], seed=9))
    assert [line.seed for line in lines(translation)] == [9, 5]


def test_control_images_of_a_table(tmp_path: Path):
    table = [{"prompt": "red", "ctrl_img_1": "a.png", "ctrl_img_2": "b.png"}]
    translation = imported(tmp_path, "a.yaml", toolkit(samples=table, walk_seed=True))
    assert translation.recipe.sample.control == (Path("a.png"), Path("b.png"))
    uneven = [*table, {"prompt": "blue"}]
    rows = imported(tmp_path, "a.yaml", toolkit(samples=uneven, walk_seed=True)).rows
    assert any("as many control images" in row.note for row in rows)


TOML = """
[prompt]
width = 768
negative_prompt = "blurry"
[[prompt.subset]]
prompt = "a cat"
scale = 5
[[prompt.subset]]
prompt = "a dog"
width = 512
sample_steps = 9
"""


def test_tables_of_prompts_of_sd_scripts(tmp_path: Path):
    (tmp_path / "prompts.toml").write_text(TOML)
    translation = imported(tmp_path, "a.toml", 'network_dim = 4\nsample_prompts = "prompts.toml"\n')
    assert lines(translation) == [
        PromptLine("a cat", "blurry", width=768, guidance=5.0),
        PromptLine("a dog", "blurry", width=512, steps=9),
    ]


def test_prompts_of_the_window_of_kohya_are_texts(tmp_path: Path):
    text = json.dumps({"LoRA_type": "Standard", "sample_prompts": "# mine\na cat --w 512\n\na dog"})
    assert lines(imported(tmp_path, "a.json", text)) == [PromptLine("a cat", width=512), PromptLine("a dog")]


def test_the_library_of_simple_tuner_and_its_negative_prompt(tmp_path: Path):
    (tmp_path / "library.json").write_text('{"cat": "a cat", "dog": "a dog"}')
    text = {
        "model_family": "flux",
        "user_prompt_library": "library.json",
        "validation_negative_prompt": "blurry",
    }
    translation = imported(tmp_path, "a.json", json.dumps(text))
    assert lines(translation) == [PromptLine("a cat", "blurry"), PromptLine("a dog", "blurry")]


@pytest.mark.parametrize("value", ["abc", [1], {"a": 1}, None, True])
def test_a_sample_of_a_wrong_kind_is_a_row(tmp_path: Path, value: Any):
    table = [{"prompt": "a cat", "width": value}, {"prompt": value}, "text"]
    translation = imported(tmp_path, "a.yaml", toolkit(samples=table))
    assert translation.rows


def test_a_file_of_samples_that_is_not_here_is_told(tmp_path: Path):
    text = json.dumps({**ONE, "sample_definition_file_name": "training_samples/samples.json"})
    rows = {row.key: row for row in imported(tmp_path, "one.json", text).rows}
    assert rows["sample_definition_file_name"].outcome == "cannot be had"
