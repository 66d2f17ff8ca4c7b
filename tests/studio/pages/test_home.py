"""Home: runs with their state."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from studio_scenes import make_run, press, words
from waiting import until

Draw = Callable[..., AppTest]


def test_home_shows_runs_with_their_state(draw: Draw, workspace: Workspace) -> None:
    cat = make_run(workspace, "cat", "running", seconds_left=75.0)
    cat.loras_path.mkdir()
    cat.step_lora_path(20).write_bytes(b"x")
    make_run(workspace, "dog", "failed", line="The loss is not a number since step 7.")
    text = words(draw("home"))
    assert "step 20 of 100, 1 min 15 s left, best validation loss 0.4000 at step 20" in text
    assert "The loss is not a number since step 7" in text.replace("\\", "")


def test_how_many_jobs_run_at_once_can_be_set(
    draw: Draw, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        SimpleNamespace(number=number, state=state, title="Train", line="", device="gpu")
        for number, state in ((1, "running"), (2, "queued"))
    ]
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: jobs)
    app = draw("home")
    app.number_input[0].set_value(2).run()
    assert workspace.jobs.at_once == 2


def test_a_job_that_failed_can_be_added_again(draw: Draw, workspace: Workspace) -> None:
    workspace.jobs.add(["nonsense"], device="cpu", title="Nonsense")
    workspace.jobs.add(["nonsense"], device="cpu", title="With a key", secrets={"KEY": "s3cret"})
    until(lambda: all(job.has_ended for job in workspace.jobs.all()))
    app = draw("home")
    assert [button.label for button in app.button].count("Again") == 0  # the later one is of the same command
    workspace.jobs.remove(2)
    press(draw("home"), "Again")
    until(lambda: workspace.jobs.get(3).has_ended)
    assert [job.number for job in workspace.jobs.all()] == [1, 3]
