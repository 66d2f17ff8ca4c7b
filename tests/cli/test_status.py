import json

import pytest

from limner.errors import BadData
from limner.events import Message, ProgressMade, StepDone
from limner.run_folder import RunDir
from limner.status import StatusFile

STEP = StepDone(step=30, steps=300, loss=0.3125, norm=1.0, learning_rate=1e-4, seconds=0.5, bytes=10)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs" / "cat").mkdir(parents=True)
    return RunDir(tmp_path / "runs" / "cat")


def started(folder):
    """A run in its training, whose status was just written."""
    status = StatusFile(folder, interval=3600, memory=lambda: 9_100_000_000)
    for event in (
        Message("4 images"),
        ProgressMade(label="Training", done=30, total=300, seconds=15.0),
        STEP,
    ):
        status.hear(event)
    return status


def test_a_run_at_work_is_one_line_and_what_it_said_last(limner, folder):
    with started(folder):
        done = limner("status", "runs/cat")
        line = (
            "runs/cat: running, Training 30/300, loss 0.3125, 0.5 s per step, memory 9.1 GB, 2 min 15 s left"
        )
        assert (done.status, done.out) == (0, f"{line}\n4 images\n")
        value = json.loads(limner("status", "runs/cat", "--json").out)
    assert (value["state"], value["phase"], value["step"]) == ("running", "Training", 30)
    assert value["bytes_now"] == 9_100_000_000


def test_a_run_that_ended_says_how(limner, folder):
    with started(folder):
        pass
    assert limner("status", "runs/cat").out == "runs/cat: done, step 30 of 300, loss 0.3125\n4 images\n"
    with pytest.raises(BadData), started(folder):
        raise BadData("The caption \x1b[2J is bad.")
    assert limner("status", "runs/cat").out.splitlines()[1] == "The caption \\x1b[2J is bad"


def test_runs_are_listed(limner, folder):
    assert limner("runs").out == "No runs in runs.\n"
    with started(folder):
        assert limner("runs").out.startswith("runs/cat: running, Training 30/300")
        assert list(json.loads(limner("runs", "--json").out)["runs"]) == ["runs/cat"]


def test_a_folder_without_a_run_is_told(limner):
    done = limner("status", "nowhere")
    assert done.status == 2 and "nowhere says nothing of a run" in done.err


def test_a_run_is_asked_for_something_by_a_file(folder, limner):
    with started(folder):
        done = limner("ask", folder.path, "save", "--json")
        assert json.loads(done.out) == {"run": str(folder.path), "asked": "save"}
        assert [path.name for path in folder.ask_path.iterdir()] == ["save"]
        refused = limner("ask", folder.path, "dance")
        assert refused.status == 2 and "Ask for one of export, sample, save, stop" in refused.err
    refused = limner("ask", folder.path, "stop")
    assert refused.status == 2 and "nobody would answer" in refused.err
