import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from limner.errors import BadLora, BadUsage
from limner.publishing.publication import publication
from limner.recipe.toml import change, dump, load
from messages import raises
from publishing.runs_to_publish import INFO, SECRET, finished_run, lora_file


def test_a_run_says_all_that_a_card_wants(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    item = publication(run.path)
    assert (item.title, item.base, item.hub_id) == ("My Cat", "flux-dev", "black-forest-labs/FLUX.1-dev")
    assert (item.trigger, item.sampling_steps, item.strength) == ("sks cat", 20, None)
    assert item.facts == {
        "Steps": "300",
        "Adapter": "LoRA, rank 1 to 3, on transformer",
        "Resolution": "1024x1024",
        "Images": "2",
        "Training time": "1 min 30 s",
        "Trained with": "Limner 0.1.0",
    }
    assert [image.prompt for image in item.images] == ["sks cat on a hill", ""]
    assert (item.hidden_prompts, item.captions) == (1, ())
    assert [file.name for file in item.files] == [
        "pytorch_lora_weights.safetensors",
        "my-cat-comfyui.safetensors",
    ]
    readers = {tool: item.file_for(tool) for tool in ("diffusers", "comfyui", "musubi")}
    assert [file and file.source for file in readers.values()] == [
        run.lora_path,
        run.lora_path_for("comfyui"),
        None,
    ]
    assert publication(run.lora_path) == item


@pytest.mark.parametrize(
    ("record", "strength"),
    [
        ({"recommendation": {"step": 300, "strength": 0.8}}, 0.8),
        ({"recommendation": {"step": 200, "strength": 0.8}}, None),
        ({"recommendation": {"step": None, "strength": None}}, None),
        ({"recommendation": None}, None),
        ([], None),
    ],
)
def test_the_strength_is_that_of_the_judge_for_this_step(tmp_path: Path, record, strength):
    run = finished_run(tmp_path / "run", tools=("diffusers",))
    run.judge_path.write_text(json.dumps(record))
    assert publication(run.path).strength == strength
    lora_file(run.lora_path, **{"limner.chosen_strength": "0.8"})
    assert publication(run.path).strength is None


def test_samples_of_a_recipe_without_prompts_are_captions(tmp_path: Path):
    run = finished_run(tmp_path / "run", prompts=())
    item = publication(run.path)
    assert [image.prompt for image in item.images] == ["", ""] and item.hidden_prompts == 2
    shown = publication(run.path, with_captions=True)
    assert [image.prompt for image in shown.images] == ["sks cat on a hill", SECRET]
    assert shown.captions == (f"sks cat, {SECRET}",)


def test_a_file_is_published_by_what_it_says(tmp_path: Path):
    item = publication(lora_file(tmp_path / "cat.safetensors", replace(INFO, base="someone/my-flux-dev")))
    assert (item.record, item.hub_id) == (None, "someone/my-flux-dev")
    assert (
        item.family
        and item.family.name == "flux"
        and [file.name for file in item.files] == ["my-cat.safetensors"]
    )
    assert item.images == () and "Images" not in item.facts
    local = publication(lora_file(tmp_path / "b.safetensors"), base="/home/ada/flux-of-mine")
    assert (local.base, local.hub_id) == ("flux-of-mine", "")
    kontext = publication(lora_file(tmp_path / "c.safetensors", replace(INFO, base="flux-kontext")))
    assert kontext.family and kontext.family.controls == (1, 1)
    other = publication(lora_file(tmp_path / "d.safetensors", replace(INFO, base="my-sdxl-folder")))
    assert other.family and other.family.name == "flux"


def test_the_lora_of_one_step_is_published_alone(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    run.loras_path.mkdir()
    shutil.copyfile(run.lora_path, run.step_lora_path(300))
    item = publication(run.step_lora_path(300))
    assert len(item.files) == 1 and item.images == () and item.base == "flux-dev"


def test_what_is_no_lora_is_told(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    lora_file(run.lora_path, replace(INFO, steps=100))
    with raises(BadUsage):
        publication(run.path)
    run.lora_path_for("comfyui").unlink()
    with raises(BadUsage):
        publication(run.path)
    recipe = change(load(run.recipe_path), {"train.method": "full", "export.for": ("diffusers",)})
    run.recipe_path.write_text(dump(recipe))
    with raises(BadUsage):
        publication(run.path)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "empty"])
def test_a_target_that_is_nothing_is_told(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with raises(BadUsage):
        publication(Path(name))


def test_a_file_that_names_no_base_or_is_torn_is_told(tmp_path: Path):
    lora = lora_file(tmp_path / "cat.safetensors", ss_sd_model_name="")
    with raises(BadUsage):
        publication(lora)
    lora.write_bytes(lora.read_bytes()[:-9])
    with raises(BadLora):
        publication(lora, base="flux-dev")
