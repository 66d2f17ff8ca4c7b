"""Each page, drawn without a browser: an empty workspace, a run at work, a failed one, hostile names."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.status import RunStatus
from limner.studio.pages import PAGES
from limner.studio.recipes import new_recipe
from limner.studio.workspace import Workspace

Draw = Callable[..., AppTest]


def words(app: AppTest) -> str:
    """All that a page says, in one text."""
    kinds = (
        app.title,
        app.subheader,
        app.markdown,
        app.caption,
        app.error,
        app.info,
        app.success,
        app.metric,
    )
    values = [str(element.value) for kind in kinds for element in kind]
    return "\n".join([*values, *(str(metric.label) for metric in app.metric)])


def make_run(workspace: Workspace, name: str, state: str, **values: object) -> RunDir:
    """A run folder with a recipe, metrics, samples and what it says of itself."""
    run = RunDir(workspace.runs / name)
    run.write_prompts(["a <b>cat</b>"])
    for step in (0, 20):
        path = run.sample_path(step, 0)
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (step, 90, 120)).save(path)
    run.recipe_path.write_text('base = "glyph"\n')
    rows = [{"step": step, "loss": 1 / (step + 1)} for step in range(1, 21)]
    run.metrics_path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 20, "held_out": 0.4}])
    )
    own = psutil.Process()
    status = RunStatus(
        state=state, phase="Training", done=20, total=100, step=20, steps=100, loss=0.05, pid=own.pid,
        host=socket.gethostname(), started=own.create_time(), heartbeat=time.time(), **values,  # pyright: ignore
    )  # fmt: skip
    run.status_path.write_text(json.dumps(asdict(status)))
    return run


@pytest.mark.parametrize("name", [facts.name for facts in PAGES if facts.name != "doctor"])
def test_an_empty_workspace_says_what_to_do(draw: Draw, name: str) -> None:
    app = draw(name)
    assert len(words(app)) > 20 and not app.error


def test_doctor_lists_what_is_there_and_what_to_do(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("torch", True, "2.13.0", "", False), ("disk", False, "1 GB free", "Free 20 GB.", False)]
    names = ("name", "ok", "detail", "remedy", "useful")
    answer = {
        "ok": False,
        "summary": "Almost.",
        "findings": [dict(zip(names, row, strict=True)) for row in rows],
    }
    monkeypatch.setattr("limner.studio.pages.doctor.ask", lambda *_, **__: answer)
    app = draw("doctor")
    assert "torch" in words(app) and app.error[0].value == r"Almost\."
    assert [code.value for code in app.code] == ["Free 20 GB."]


def test_home_shows_runs_with_their_state(draw: Draw, workspace: Workspace) -> None:
    make_run(workspace, "cat", "running", seconds_left=75.0)
    make_run(workspace, "dog", "failed", line="The loss is not a number since step 7.")
    text = words(draw("home"))
    assert "step 20 of 100, 1 min 15 s left" in text
    assert "The loss is not a number since step 7" in text.replace("\\", "")


def test_a_run_at_work_has_its_figures_and_can_be_stopped(draw: Draw, workspace: Workspace) -> None:
    run = make_run(workspace, "cat", "running", seconds_per_step=0.5, bytes=2**30, planned_bytes=2**30)
    app = draw("run", run="cat")
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {"Step": "20 of 100", "Loss": "0.0500", "Per step": "0.5 s", "Most memory": "1.1 GB"}
    button = next(button for button in app.button if button.label == "Stop and save")
    button.click().run()
    assert (run.ask_path / "stop").exists()


def test_a_prompt_is_shown_as_it_stands(draw: Draw, workspace: Workspace) -> None:
    make_run(workspace, "cat", "done")
    assert r"a \<b\>cat\</b\>" in words(draw("run", run="cat"))


def test_a_failed_run_shows_its_line_and_can_be_resumed(draw: Draw, workspace: Workspace) -> None:
    make_run(workspace, "cat", "failed", line="The disk is full: 0 bytes left.", saved_step=10)
    app = draw("run", run="cat")
    assert "The disk is full" in app.error[0].value
    assert "Resume goes on from there" in words(app)
    assert [button.label for button in app.button][0] == "Resume"


def test_a_run_that_was_deleted_is_told(draw: Draw) -> None:
    app = draw("run", run="gone")
    assert "no run gone any more" in app.error[0].value


@pytest.mark.parametrize("name", ["../../etc", "/etc"])
def test_an_address_that_leads_out_is_refused(draw: Draw, name: str) -> None:
    app = draw("run", run=name)
    assert "not in the workspace" in app.error[0].value


def test_starting_queues_the_training(
    draw: Draw, workspace: Workspace, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("limner.jobs.Jobs.add", lambda self, *args, **kwargs: calls.append((args, kwargs)))
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("run", run="cat")
    next(button for button in app.button if button.label == "Start").click().run()
    ((arguments,), options) = calls[0]
    assert arguments == ["train", str(recipe.path), "--out", str(workspace.runs / "cat"), "--json"]
    assert options["device"] == "gpu" and options["run"] == workspace.runs / "cat"


PLAN = {
    "fits": True,
    "seconds_per_step": 0.5,
    "seconds": {"all": 75.0},
    "reserved_bytes": 2**30,
    "gate": None,
    "causes": {"train": {"weights": 2**29, "activations": 2**29, "context": 0}},
    "alternatives": [
        {"what": "batch 16 (--batch 16)", "fits": True, "change": -0.25, "batch": 16, "reserved_bytes": 2**30}
    ],
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What plans were asked for; the journey in a browser asks the real verb."""
    from limner.studio.pages import plan

    plan._plans.clear()
    questions: list[list[str]] = []

    def answer(arguments: list[str], **_: object) -> dict[str, object]:
        questions.append([str(argument) for argument in arguments])
        return PLAN

    monkeypatch.setattr("limner.studio.pages.plan.ask", answer)
    return questions


def test_the_plan_follows_the_questions(
    draw: Draw, workspace: Workspace, cats: Path, planned: list[list[str]]
) -> None:
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("plan", recipe="cat")
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {"Per step": "0.5 s", "In all": "1 min 15 s", "Memory": "1.1 GB"}
    assert planned == [["plan", str(recipe.path)]]
    rank = next(box for box in app.number_input if box.label.startswith("LoRA rank"))
    rank.set_value(5).run()
    assert recipe.load().lora.rank == 5
    trigger = next(box for box in app.text_input if box.label == "Trigger word")
    trigger.set_value("zxq").run()
    assert recipe.load().data.trigger == "zxq" and recipe.load().lora.rank == 5
    next(button for button in app.button if button.label == "Take it").click().run()
    assert recipe.load().train.batch == 16
    assert len(planned) == 4  # once for each content of the file


@pytest.mark.usefixtures("planned")
def test_all_settings_are_there_and_a_wrong_one_is_told(draw: Draw, workspace: Workspace, cats: Path) -> None:
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("plan", recipe="cat")
    app.toggle[0].set_value(True).run()
    rate = next(box for box in app.text_input if box.label == "warmup")
    rate.set_value("-1").run()
    assert any("train" in error.value and "warmup" in error.value for error in app.error)
    assert recipe.load().train.warmup != -1
    assert len(app.text_input) > 60


def test_500_pictures_make_small_thumbnails(workspace: Workspace, cats: Path) -> None:
    from limner.studio.show import thumbnail

    photo = cats / "large.jpg"
    Image.effect_noise((2000, 1500), 60).convert("RGB").save(photo)
    first = thumbnail(photo, workspace)
    assert len(first) < 40_000 and len(list(workspace.thumbnails.iterdir())) == 1
    assert thumbnail(photo, workspace) == first


def test_the_pages_load_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        "from limner.studio import app, server, demo\n"
        "from limner.studio.pages import PAGES\n"
        "for facts in PAGES: facts.draw()\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
