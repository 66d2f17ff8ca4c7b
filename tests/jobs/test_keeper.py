import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from limner.jobs import Jobs
from limner.jobs.keeper import main
from limner.run_folder import RunDir
from limner.status import Requests
from waiting import until


def started(jobs, work, arguments=("wait", "a"), **options):
    """A job that waits for a file, and the processes of its keeper and its command."""
    jobs.add(arguments, **options)
    until(lambda: (work / "order").exists())
    state = until(
        lambda: (state := json.loads((jobs.folder / "0001/state.json").read_text())).get("child") and state
    )
    return state["keeper"]["pid"], state["child"]["pid"]


def test_the_command_outlives_its_keeper_and_can_still_be_stopped(jobs, work):
    keeper, _ = started(jobs, work)
    jobs.add(["wait", "b"])
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(keeper))
    assert [job.state for job in jobs.all()] == ["running", "queued"]
    assert jobs.stop(1).state in ("stopping", "stopped")
    until(lambda: jobs.get(1).state == "stopped")
    assert jobs.get(1).exit_code is None
    until(lambda: jobs.get(2).state == "running")  # its turn


def test_a_command_that_is_killed_is_a_failure_with_its_cause(jobs, work):
    _, child = started(jobs, work)
    os.kill(child, signal.SIGKILL)
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("failed", -9)
    assert job.line == (
        "The process was ended from outside, by SIGKILL. The system does that when memory runs out."
    )


def test_both_killed_is_died(jobs, work):
    for pid in started(jobs, work):
        os.kill(pid, signal.SIGKILL)
    until(lambda: jobs.get(1).state == "died")
    jobs.remove(1)
    assert jobs.all() == []


def test_the_keeper_passes_sigterm_on(jobs, work):
    keeper, _ = started(jobs, work)
    os.kill(keeper, signal.SIGTERM)
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("stopped", -15)


def test_it_is_killed_without_asking(jobs, work):
    started(jobs, work)
    jobs.stop(1, now=True)
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("stopped", -9)


def test_a_run_is_asked_in_its_folder(jobs, work):
    started(jobs, work, ["train", "run"], run="run")
    jobs.stop(1)
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code, job.line) == ("stopped", 1, "Stopped at step 2; saved.")


def test_a_run_that_somebody_else_stopped_is_stopped(jobs, work):
    started(jobs, work, ["train", "run"], run="run")
    Requests(RunDir(work / "run")).send("stop")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("stopped", 1)


@pytest.mark.parametrize("end, state", [("end", "done"), ("run/ask/stop", "stopped")])
def test_a_run_whose_keeper_was_killed_says_itself_how_it_ended(jobs, work, end, state):
    keeper, _ = started(jobs, work, ["train", "run"], run="run")
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(keeper))
    assert jobs.get(1).state == "running"
    (work / "run" / "ask").mkdir(exist_ok=True)
    (work / end).touch()
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code, job.run) == (state, None, work / "run") and job.ended


def test_a_job_has_one_keeper(jobs, work):
    _, child = started(jobs, work)
    line = [sys.executable, "-m", "limner.jobs.keeper", str(jobs.folder / "0001")]
    code = "import sys, limner.jobs.keeper as keeper; keeper.LOCK_SECONDS = 0.1; "
    code += "import pathlib; keeper.main(pathlib.Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", code, line[-1]], check=True).returncode == 0
    assert jobs.get(1).state == "running" and psutil.pid_exists(child)
    assert (work / "order").read_text() == "a\n"


def power_cut(jobs):
    """Kill all processes of all jobs, as a restart of the computer does."""
    for job in jobs.all():
        state = until(lambda job=job: json.loads((job.folder / "state.json").read_text()))
        for name in ("keeper", "child"):
            if name in state:
                os.kill(state[name]["pid"], signal.SIGKILL)
                until(lambda pid=state[name]["pid"]: find_dead(pid))


def find_dead(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def test_what_waits_goes_on_after_a_restart_and_what_ran_has_died(jobs, work):
    started(jobs, work)
    jobs.add(["wait", "b"])
    until(lambda: (jobs.folder / "0002/state.json").exists())
    power_cut(jobs)
    assert [job.state for job in jobs.all()] == ["died", "queued"]
    assert Jobs(jobs.folder).go_on() == [2] and jobs.go_on() == []
    until(lambda: jobs.get(2).state == "running" and "b" in (work / "order").read_text())
    assert jobs.again(1).state == "queued"  # a person decides on what had begun


def test_one_that_waits_keeps_those_before_it_going(jobs, work):
    started(jobs, work)
    jobs.add(["wait", "b"])
    until(lambda: (jobs.folder / "0002/state.json").exists())
    jobs.add(["env", "SHADE"], secrets={"SHADE": "s3cret"})
    victim = json.loads((jobs.folder / "0002/state.json").read_text())["keeper"]["pid"]
    os.kill(victim, signal.SIGKILL)
    keeper = until(
        lambda: (
            (name := json.loads((jobs.folder / "0002/state.json").read_text())["keeper"])
            and name["pid"] != victim  # which may still be there for a moment
            and not find_dead(name["pid"])
            and name
        )
    )
    environment = psutil.Process(keeper["pid"]).environ()
    assert "PATH" in environment and "SHADE" not in environment  # no other job's keys
    for name in "ab":
        (work / name).touch()
    until(lambda: [job.state for job in jobs.all()] == ["done"] * 3)
    assert (work / "order").read_text().split() == ["a", "b"]


def test_one_whose_keys_went_with_its_keeper_does_not_go_on(jobs, work):
    started(jobs, work)
    jobs.add(["env", "SHADE"], secrets={"SHADE": "s3cret"})
    until(lambda: (jobs.folder / "0002/state.json").exists())
    power_cut(jobs)
    job = jobs.get(2)
    assert (job.state, job.secrets) == ("died", ("SHADE",)) and jobs.go_on() == []
    assert job.line == "It waited when its process was ended, and SHADE, which it was given, is in no file."


def test_a_keeper_that_ends_before_a_word_is_not_started_again(jobs, work):
    started(jobs, work)
    jobs.add(["wait", "b"])
    until(lambda: (jobs.folder / "0002/state.json").exists())
    power_cut(jobs)
    (jobs.folder / "0002/state.json").unlink()
    assert jobs.get(2).state == "died" and jobs.go_on() == []


def test_of_a_folder_that_is_gone_nothing_comes_back(tmp_path):
    main(tmp_path / "0001")
    assert not (tmp_path / "0001").exists()
