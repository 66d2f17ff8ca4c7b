import json
import re
import subprocess
import sys
import time

import pytest

from limner.errors import BadData, BadUsage, Stopped
from limner.events import Message, PlanMade, ProgressMade, Saved, StepDone, Validated
from limner.run_folder import RunDir
from limner.status import KINDS, Requests, StatusFile, TrainLog, read_status, runs_in
from messages import raises

STEP = StepDone(step=3, steps=9, loss=0.5, norm=1.0, learning_rate=1e-4, seconds=0.25, bytes=10)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def wait_for(check):
    """Give a thread the time that a loaded machine takes."""
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_says_what_events_said(run):
    with StatusFile(run, interval=0.01) as status:
        assert (read_status(run.path).state, read_status(run.path).phase) == ("running", "Preparing")
        status.hear(PlanMade(bytes=20, seconds_per_step=1.0, seconds=9.0, plan={}))
        status.hear(Message("4 images"))
        status.hear(ProgressMade(label="Training", done=3, total=9, seconds=6.0))
        status.hear(STEP)
        status.hear(Validated(step=3, loss=0.25))
        status.hear(Saved(step=3, path=run.checkpoint_path(3), lora=None))
        wait_for(lambda: read_status(run.path).saved_step == 3)
        now = read_status(run.path)
    assert (now.phase, now.done, now.total, now.seconds_left) == ("Training", 3, 9, 12.0)
    assert (now.step, now.steps, now.loss, now.validation_loss) == (3, 9, 0.5, 0.25)
    assert (now.seconds_per_step, now.bytes, now.planned_bytes, now.line) == (0.25, 10, 20, "4 images")
    ended = read_status(run.path)
    assert (ended.state, ended.phase, ended.step) == ("done", "", 3)


def test_it_beats_while_nothing_happens(run):
    with StatusFile(run, interval=0.01):
        first = read_status(run.path).heartbeat
        wait_for(lambda: read_status(run.path).heartbeat > first)
    last = run.status_path.read_bytes()
    time.sleep(0.05)
    assert run.status_path.read_bytes() == last, "nothing is written once the run has ended"


def test_it_says_how_much_memory_is_held_now(run):
    sizes = iter(range(1, 10**6))
    with StatusFile(run, interval=0.01, memory=lambda: next(sizes)):
        first = read_status(run.path).bytes_now
        wait_for(lambda: read_status(run.path).bytes_now > first)
    with StatusFile(run, interval=60):
        assert 10**7 < read_status(run.path).bytes_now < 10**11, "of this process, where nothing else is said"
    with StatusFile(run, interval=60, memory=lambda: None):
        assert read_status(run.path).bytes_now is None


def test_a_status_of_an_older_version_is_read(run):
    with StatusFile(run):
        pass
    values = json.loads(run.status_path.read_text())
    del values["bytes_now"]
    run.status_path.write_text(json.dumps(values | {"of_a_newer_one": 1}))
    assert (read_status(run.path).state, read_status(run.path).bytes_now) == ("done", None)


def test_work_within_work_is_named_and_then_the_work_around_it(run):
    with StatusFile(run, interval=0.01) as status:
        status.hear(ProgressMade(label="Training", done=1, total=2))
        status.hear(ProgressMade(label="Sampling", done=0, total=1))
        wait_for(lambda: read_status(run.path).phase == "Sampling")
        status.hear(ProgressMade(label="Sampling", done=1, total=1, ended=True))
        wait_for(lambda: read_status(run.path).phase == "Training")
        status.hear(ProgressMade(label="Training", done=2, total=2, ended=True))
        wait_for(lambda: read_status(run.path).phase == "Preparing")
    assert (read_status(run.path).phase, read_status(run.path).total) == ("", 0)


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [
        (Stopped("Stopped at step 3."), "stopped", "before"),
        (GeneratorExit(), "stopped", "before"),
        (BadData("No images. Give some."), "failed", "No images. Give some"),
        (ZeroDivisionError("division by zero"), "failed", "division by zero"),
    ],
    ids=["stopped", "left", "failed", "broken"],
)
def test_it_says_how_a_run_ended(run, error, state, line):
    with pytest.raises(type(error)), StatusFile(run) as status:
        status.hear(Message("before"))
        raise error
    ended = read_status(run.path)
    assert (ended.state, ended.phase, ended.line) == (state, "", line)


def test_a_run_whose_process_is_gone_was_killed(run):
    code = f"""
import os
from pathlib import Path
from limner.run_folder import RunDir
from limner.status import StatusFile
StatusFile(RunDir(Path({str(run.path)!r}))).__enter__()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert json.loads(run.status_path.read_text())["state"] == "running"
    assert read_status(run.path).state == "killed"


def test_a_clock_that_is_set_kills_no_run(run):
    with StatusFile(run):
        status = json.loads(run.status_path.read_text())
        for hour in (-3600, 3600):
            run.status_path.write_text(json.dumps({**status, "started": status["started"] + hour}))
            assert read_status(run.path).state == "running"
        run.status_path.write_text(
            json.dumps({**status, "birth": "another-boot 1"})
        )  # the computer was restarted
        assert read_status(run.path).state == "killed"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": 1}', "\xff"])
def test_what_is_no_status_says_nothing(run, text):
    run.status_path.write_text(text, encoding="latin-1")
    assert read_status(run.path) is None


def test_a_folder_that_is_gone_ends_no_run(run):
    with StatusFile(run, interval=0.01) as status:
        run.status_path.unlink()
        run.path.rmdir()
        run.path.write_text("a file now")
        status.hear(STEP)
        time.sleep(0.05)
    assert read_status(run.path) is None


def test_runs_are_listed_by_name(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        with StatusFile(RunDir(tmp_path / name)):
            pass
    (tmp_path / "no-run").mkdir()
    assert [path.name for path in runs_in(tmp_path)] == ["a", "b"]
    assert runs_in(tmp_path / "nowhere") == {}


def test_it_loads_no_torch():
    code = "import sys, limner.status; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def lines_of(run):
    """Each with the time before it, which is cut off."""
    lines = run.log_path.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    return [line[21:] for line in lines]


def test_it_holds_what_was_said_call_after_call(run):
    with TrainLog(run) as log:
        log.hear(Message("4 images\x1b[2J"))
        log.hear(ProgressMade(label="Training", done=4, total=4, seconds=9.0, ended=True))
    with pytest.raises(Stopped), TrainLog(run):
        raise Stopped("Stopped at step 3.")
    with pytest.raises(KeyboardInterrupt), TrainLog(run):
        raise KeyboardInterrupt
    first, *rest = lines_of(run)
    assert re.fullmatch(r"Process \d+ begins\.", first)
    assert rest == [
        "4 images\\x1b[2J",
        "Training 4/4, 9.0 s",
        "Done.",
        first,
        "Stopped: Stopped at step 3",
        first,
        "Stopped, from outside.",
    ]


def test_a_log_that_cannot_be_written_ends_no_run(run):
    run.log_path.mkdir()
    with TrainLog(run) as log:
        log.hear(Message("a"))
    assert not list(run.log_path.iterdir())


def test_a_disk_that_fills_up_ends_no_run(run):
    with TrainLog(run) as log:

        def full(text):
            raise OSError(28, "No space left on device")

        assert log._file is not None
        log._file.write = full  # pyright: ignore[reportAttributeAccessIssue]
        log.hear(Message("a"))
        log.hear(Message("b"))
    assert len(lines_of(run)) == 1


def test_what_is_asked_of_a_run_is_pending_until_it_is_answered(run):
    requests = Requests(run)
    assert requests.pending() == [] and not requests.stops()
    with StatusFile(run):
        for kind in ("stop", "sample", "save"):
            requests.send(kind)
    assert requests.pending() == ["save", "sample", "stop"] and requests.stops()
    requests.answer("save")
    assert requests.pending() == ["sample", "stop"]
    requests.clear()
    assert requests.pending() == [] and not list(run.ask_path.iterdir())


def test_a_file_that_another_program_puts_there_is_as_good(run):
    run.ask_path.mkdir()
    (run.ask_path / "stop").write_text("please")
    (run.ask_path / "dance").write_text("")
    assert Requests(run).pending() == ["stop"]


def test_what_nobody_would_answer_is_refused(run, tmp_path):
    with raises(BadUsage):
        Requests(run).send("stop")
    with raises(BadUsage):
        Requests(RunDir(tmp_path / "none")).send("stop")
    with StatusFile(run):
        pass
    with raises(BadUsage):
        Requests(run).send("stop")
    with StatusFile(run), raises(BadUsage):
        Requests(run).send("dance")
    assert Requests(run).pending() == []


def test_stopping_comes_last():
    assert KINDS[-1] == "stop"
