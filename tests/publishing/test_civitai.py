from dataclasses import replace
from pathlib import Path

from limner.publishing.civitai import model_page, write_civitai
from limner.publishing.publication import publication
from publishing.runs_to_publish import finished_run


def test_the_folder_has_files_pictures_and_the_fields_of_the_page(tmp_path: Path):
    item = publication(finished_run(tmp_path / "run").path)
    names = {path.name for path in write_civitai(item, tmp_path / "civ")}
    assert names == {
        "model.json",
        "description.md",
        "pytorch_lora_weights.safetensors",
        "my-cat-comfyui.safetensors",
        "00.png",
        "01.png",
    } and names == {path.name for path in (tmp_path / "civ").iterdir()}
    page = model_page(item)
    assert (page["name"], page["type"]) == ("My Cat", "LORA")
    assert page["version"] == {
        "name": "1",
        "baseModel": "Flux.1 D",
        "trainedWords": ["sks cat"],
        "steps": 300,
        "strength": None,
        "files": ["pytorch_lora_weights.safetensors", "my-cat-comfyui.safetensors"],
        "images": [{"file": "00.png", "prompt": "sks cat on a hill"}, {"file": "01.png", "prompt": None}],
    }
    assert model_page(replace(item, record=None))["version"]["baseModel"] == "Other"
    text = (tmp_path / "civ/description.md").read_text()
    assert text.startswith("A LoRA for [black-forest-labs/FLUX.1-dev]") and "```" not in text
