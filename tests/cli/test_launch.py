import json
from pathlib import Path

import pytest

from launching.machines import profile_at_hand
from limner.recipe.toml import dump
from limner.target import template


@pytest.fixture
def recipe(photos, monkeypatch) -> Path:
    profile_at_hand(monkeypatch)
    Path("cat.toml").write_text(dump(template({"base": "glyph", "data.images": photos})))
    return Path("cat.toml")


def test_the_task_is_written(limner, recipe):
    done = limner("launch", recipe, "--gpu", "H100", "--dry-run", "--json")
    value = json.loads(done.out)
    assert value["task"] == "task.yaml" and value["machine"]["gpus"] == {"name": "H100", "count": 1}
    assert Path("task.yaml").is_file() and Path("task.recipe.toml").is_file() and not value["is_running"]
    done = limner("launch", recipe, "--gpu", "H100", "--dry-run", "--out", "other.yaml")
    assert done.out.startswith("Task: other.yaml\nH100:1: ")
    assert done.out.endswith("Start it: sky launch --cluster limner-lora other.yaml\n")


def test_a_torn_recipe_and_a_gpu_that_is_too_small_are_one_line(limner, recipe):
    Path("torn.toml").write_text("[train")
    done = limner("launch", "torn.toml", "--gpu", "H100", "--dry-run")
    assert done.status == 2 and done.err.count("\n") == 1
    recipe.write_text(recipe.read_text().replace('vram = "auto"', 'vram = "20MB"'))
    done = limner("launch", recipe, "--gpu", "T4", "--dry-run")
    assert done.status == 1 and "glyph does not fit T4:1: " in done.err
