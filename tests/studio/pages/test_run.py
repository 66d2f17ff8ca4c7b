"""Run: at work, failed, gone; started and stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.recipes import new_recipe
from limner.studio.workspace import Workspace
from studio_scenes import make_run, words

Draw = Callable[..., AppTest]


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


def test_a_run_of_a_newer_version_is_told(draw: Draw, workspace: Workspace) -> None:
    run = make_run(workspace, "cat", "waits for the moon")
    run.recipe_path.write_text('base = "glyph"\n[brandnew]\nx = 1\n')
    run.plan_path.write_text("[1]")
    (error,) = draw("run", run="cat").error
    assert "Unknown recipe key brandnew" in error.value and "update" in error.value


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
