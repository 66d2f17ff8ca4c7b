import json
from pathlib import Path

import pytest

from limner.recipe import Data, Recipe
from limner.recipe.toml import dump
from limner.run_folder import RunDir


@pytest.fixture
def run(tmp_path, photos):
    """A run with LoRAs of two steps, of which the first is the better one."""
    run = RunDir(tmp_path / "run")
    run.loras_path.mkdir(parents=True)
    run.recipe_path.write_text(dump(Recipe(data=Data(images=photos))))
    for step, loss in ((100, 0.25), (200, 0.5)):
        run.step_lora_path(step).write_bytes(b"weights %d" % step)
        run.log({"step": step, "held_out": loss})
    return run


@pytest.mark.parametrize(("step", "number"), [("last", 200), ("best", 100), ("100", 100)])
def test_the_lora_of_a_step_is_given_out(limner, run, step, number):
    done = limner("export", run.path, "--step", step, "--json")
    assert json.loads(done.out) == {"lora": str(run.step_lora_path(number))}
    assert limner("export", run.path, "--step", step, "--out", "cat.safetensors").out == "cat.safetensors\n"
    assert Path("cat.safetensors").read_bytes() == b"weights %d" % number


def test_a_tool_gets_a_file_of_its_own(limner, run, verb):
    calls = []
    verb("lora.verbs", convert=lambda *given, on_event: calls.append(given))
    done = limner("export", run.path, "--to", "comfyui")
    expected = run.loras_path / "step-000200-comfyui.safetensors"
    assert calls == [(run.step_lora_path(200), "comfyui", expected)]
    assert done.out == f"{expected}\n"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("150", "has no LoRA of step 150. It has those of 100, 200."),
        ("100,200", "one step"),
        ("x", "--step is 'x'"),
    ],
)
def test_a_step_that_is_not_there_is_told(limner, run, step, message):
    done = limner("export", run.path, "--step", step)
    assert done.status == 2 and message in done.err
