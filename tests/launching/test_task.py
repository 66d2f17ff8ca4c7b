from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from launching.machines import MACHINE, recipes
from limner.errors import BadUsage
from limner.launching.clouds import Gpus
from limner.launching.task import TaskRequest, described, duration, remote_recipe, secrets_of, task, yaml_text
from limner.recipe.toml import change, dump, parse
from messages import raises

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "launch"
CASES = {
    "plain": {"machine": MACHINE},
    "spot": {
        "machine": replace(MACHINE, cloud="aws", price=2.5, gated=True),
        "spot": True,
        "bucket": "s3://cats",
    },
    "two": {"machine": replace(MACHINE, gpus=Gpus("RTX4090", 2), cloud="runpod", price=0.7, hours=2.04)},
}


def written(name: str, folder: Path) -> str:
    request = TaskRequest(recipe=recipes(folder)[name], **CASES[name])
    _, mounts = remote_recipe(request.recipe)
    notes = described(request.machine, spot=request.spot)
    text = yaml_text(task(request, folder / "task.recipe.toml", mounts), notes)
    return text.replace(str(folder), "<folder>").replace(f"=={version('limner')}", "==<version>")


@pytest.mark.parametrize("name", CASES)
def test_the_task_is_the_golden_one(name: str, tmp_path: Path):
    assert written(name, tmp_path) == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_skypilot_takes_it(name: str, tmp_path: Path):
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    text = written(name, tmp_path).replace("<folder>", str(tmp_path)).replace("<version>", version("limner"))
    (tmp_path / "task.recipe.toml").write_text("")
    (tmp_path / "task.yaml").write_text(text)
    assert sky.Task.from_yaml(str(tmp_path / "task.yaml")).run == yaml.safe_load(text)["run"]


def test_the_recipe_there_finds_all_that_it_names(tmp_path: Path):
    recipe = recipes(tmp_path)["two"]
    remote, mounts = remote_recipe(recipe)
    there = parse(dump(remote), Path("/there"))
    assert str(there.data.images) == "/there/files/data-images" and there.data.cache is None
    assert there.train.init == "/there/files/train-init.safetensors" and there.base == "sdxl"
    assert mounts == {
        "~/limner/files/data-images": tmp_path / "photos",
        "~/limner/files/data-validation_images": tmp_path / "more",
        "~/limner/files/sample-prompt_file.txt": tmp_path / "prompts.txt",
        "~/limner/files/train-init.safetensors": tmp_path / "start.safetensors",
    }


def test_a_word_in_place_of_a_folder_stays_a_word(tmp_path: Path):
    recipe = change(recipes(tmp_path)["plain"], {"data.masks": "alpha"})
    remote, mounts = remote_recipe(recipe)
    assert remote.data.masks == "alpha" and list(mounts) == ["~/limner/files/data-images"]


def test_what_is_not_here_cannot_be_taken_along(tmp_path: Path):
    with raises(BadUsage):
        remote_recipe(change(recipes(tmp_path)["plain"], {"data.images": tmp_path / "gone"}))


def test_secrets_are_named_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    recipe = recipes(tmp_path)["spot"]
    assert secrets_of(recipe, replace(MACHINE, gated=True)) == ["HF_TOKEN", "WANDB_API_KEY"]
    assert secrets_of(recipe, MACHINE) == ["WANDB_API_KEY"]
    text = written("spot", tmp_path)
    assert yaml.safe_load(text)["secrets"] == {"HF_TOKEN": None, "WANDB_API_KEY": None}
    assert "secret:" not in text and "hf_secret" not in text


def test_a_wheel_is_taken_along(tmp_path: Path):
    wheel = tmp_path / "limner-9-py3-none-any.whl"
    wheel.write_bytes(b"")
    request = TaskRequest(recipe=recipes(tmp_path)["plain"], machine=MACHINE, package=str(wheel))
    value = task(request, tmp_path / "r.toml", {})
    assert value["file_mounts"][f"~/limner/{wheel.name}"] == str(wheel)
    assert value["setup"].endswith(f"~/limner/{wheel.name}[gpu]\n")
    other = task(replace(request, package="limner @ git+https://x/y"), tmp_path / "r.toml", {})
    assert other["setup"].endswith("'limner @ git+https://x/y'\n")


def test_times_are_said_as_people_say_them():
    assert (duration(0.51), duration(2.04)) == ("31 min", "2.0 h")
