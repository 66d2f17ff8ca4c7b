"""Generate: what is asked of the verb, what is shown of its images, and what was made so far."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.studio.pages.generate import outputs, parameters
from limner.studio.workspace import Workspace
from studio_scenes import make_run, press

Draw = Callable[..., AppTest]


def made(
    workspace: Workspace, name: str, colour: str, text: str = "a cat\nSteps: 20", record: object = None
) -> Path:
    path = workspace.outputs / name
    path.parent.mkdir(exist_ok=True)
    info = PngInfo()
    info.add_text("parameters", text)
    if record is not None:
        info.add_text("limner", json.dumps(record))
    Image.new("RGB", (64, 64), colour).save(path, pnginfo=info)
    return path


@pytest.fixture
def run(workspace: Workspace) -> Path:
    folder = make_run(workspace, "cat", "done")
    folder.lora_path.write_bytes(b"x")
    return folder.path


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    job = SimpleNamespace(number=3)

    def add(_: object, arguments: list[str], **__: object) -> object:
        calls.append(arguments)
        return job

    monkeypatch.setattr("limner.jobs.Jobs.add", add)
    return calls


def test_the_base_stands_beside_the_lora_and_all_settings_reach_the_verb(
    draw: Draw, workspace: Workspace, run: Path, added: list[list[str]]
) -> None:
    app = draw("generate", run="cat")
    app.text_area[0].set_value("-- a cat in the snow")
    app.text_input[0].set_value("blurry")
    app.number_input[1].set_value(7)
    app.toggle[1].set_value(False)
    app.run()
    press(app, "Generate")
    assert added == [
        [
            "generate",
            str(run),
            "--prompt=-- a cat in the snow",
            "--negative-prompt=blurry",
            "--images-per-prompt=1",
            "--seed=7",
            "--lora-scale=0,1",
            "--out",
            str(workspace.outputs),
            "--json",
        ]
    ]


def keep_steps(run: Path, *steps: int) -> None:
    for step in steps:
        path = RunDir(run).step_lora_path(step)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")


def test_an_xy_grid_is_one_press(draw: Draw, run: Path, added: list[list[str]]) -> None:
    keep_steps(run, 20, 40, 60, 80)
    app = draw("generate", run="cat")
    press(app, "Make the XY grid")
    assert {"--lora-scale=0,0.5,1", "--step=40,60,80"} <= set(added[0])


def test_an_image_is_sent_to_an_xy_grid_with_what_made_it(
    draw: Draw, workspace: Workspace, run: Path, added: list[list[str]]
) -> None:
    keep_steps(run, 20)  # one step is no axis
    record = {"prompt": "a dog", "seed": 5, "steps": 8, "width": 64, "height": 48, "guidance": 1.0}
    made(workspace, "dog.png", "red", record={**record, "distilled_guidance": 3.5})
    made(workspace, "foreign.png", "red")
    app = draw("generate", run="cat")
    press(app, "Send to XY grid")
    assert [word for word in added[0] if word.startswith("--") and "=" in word] == [
        "--prompt=a dog",
        "--seed=5",
        "--steps=8",
        "--width=64",
        "--height=48",
        "--guidance=3.5",
        "--lora-scale=0,0.5,1",
    ]
    assert app.text_area[0].value == "a dog" and app.number_input[1].value == 5


def test_an_empty_prompt_is_told(draw: Draw, run: Path, added: list[list[str]]) -> None:
    app = draw("generate", run="cat")
    app.text_area[0].set_value(" ").run()
    press(app, "Generate")
    assert app.error[0].value.startswith("Write a prompt first") and not added


def test_several_loras_have_a_strength_each(
    draw: Draw, workspace: Workspace, run: Path, added: list[list[str]]
) -> None:
    other = workspace.loras / "style.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"x")
    app = draw("generate", run="cat")
    app.multiselect[0].set_value(["loras/style.safetensors"]).run()
    next(slider for slider in app.slider if "style" in slider.label).set_value(0.5)
    app.toggle[0].set_value(False)
    app.toggle[1].set_value(False)
    app.run()
    press(app, "Generate")
    assert f"--lora={other}:0.5" in added[0] and "--lora-scale=1" in added[0]


def test_what_stands_in_the_fields_is_there_after_a_reload(draw: Draw, run: Path) -> None:
    app = draw("generate", run="cat")
    app.text_area[0].set_value("a cat in the snow")
    app.number_input[3].set_value(3.5)
    app.slider[0].set_value(0.8)
    app.run()
    app = draw("generate", run="cat")
    assert app.text_area[0].value == "a cat in the snow"
    assert (app.number_input[3].value, app.slider[0].value) == (3.5, 0.8)


def job(workspace: Workspace, **values: Any) -> Any:
    facts = {"number": 3, "state": "done", "title": "Generate", "line": "", "device": "gpu", "run": None}
    return SimpleNamespace(**{**facts, **values})


def test_two_images_of_one_seed_can_be_wiped(
    draw: Draw, workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(made(workspace, name, colour)) for name, colour in (("a.png", "red"), ("b.png", "blue"))]
    done = job(workspace, result=lambda: {"images": names})
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [done])
    app = draw("generate", run="cat", job="3")
    assert [slider.label for slider in app.slider][-1] == "Before | after"
    assert app.code[0].value == "a cat\nSteps: 20"


def test_what_waits_for_a_training_says_so(
    draw: Draw, workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(workspace, number=2, state="running", title="Train cat"), job(workspace, state="queued")]
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: jobs)
    app = draw("generate", run="cat", job="3")
    assert "It waits for the GPU, which Train cat has" in app.info[0].value


def test_the_history_has_the_newest_first_and_what_made_them(
    draw: Draw, workspace: Workspace, run: Path
) -> None:
    for number in range(14):
        made(workspace, f"{number:02}.png", "red", text=f"number {number}")
    assert len(outputs(workspace)) == 14
    app = draw("generate", run="cat")
    assert len(app.code) == 12
    assert parameters(workspace.outputs / "03.png") == "number 3"


def test_an_image_without_metadata_or_none_at_all_has_no_parameters(workspace: Workspace) -> None:
    path = workspace.root / "x.png"
    Image.new("RGB", (8, 8)).save(path)
    assert parameters(path) == ""
    path.write_bytes(b"no picture")
    assert parameters(path) == ""


def test_the_loaded_base_makes_both_images_and_they_stay_after_a_reload(
    draw: Draw, workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []

    def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
        requests.append(request)
        path = made(workspace, f"strength{request['strength']:g}.png", "red")
        return [
            {"kind": "progress", "done": 1, "total": 2},
            {"kind": "image", "path": str(path)},
            {"kind": "done", "seconds": 1},
        ]

    monkeypatch.setattr("limner.studio.loaded_base.generate", answers)
    (run / "recipe.toml").write_text('base = "glyph"\n[data]\ntrigger = "zxq"\n')
    app = draw("generate", run="cat")
    app.text_area[0].set_value("[trigger] waving").run()
    press(app, "Generate")
    assert [(request["strength"], request["prompt"]) for request in requests] == [
        (0.0, "zxq waving"),
        (1.0, "zxq waving"),
    ]
    assert app.query_params["images"] == ["strength0.png", "strength1.png"]
    app.run()
    assert [slider.label for slider in app.slider][-1] == "Before | after"


def test_what_the_loaded_base_cannot_do_is_one_line(
    draw: Draw, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"kind": "error", "error": "DoesNotFit", "message": "It wants 30 GB."}
    monkeypatch.setattr("limner.studio.loaded_base.generate", lambda _: [answer])
    app = draw("generate", run="cat")
    press(app, "Generate")
    assert app.error[0].value == r"It wants 30 GB\."


def test_while_a_job_has_the_gpu_the_request_waits_in_the_queue(
    draw: Draw, workspace: Workspace, run: Path, added: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = job(workspace, number=2, state="running", title="Train cat")
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [training])
    app = draw("generate", run="cat")
    press(app, "Generate")
    assert added[0][0] == "generate"
