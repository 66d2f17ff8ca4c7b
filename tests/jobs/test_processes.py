import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from limner.jobs.processes import ask_to_end, died_of, find, kill, name_from, name_of, run_status
from limner.run_folder import RunDir
from limner.status import StatusFile
from waiting import until


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_named_for_good(sleeper):
    name = name_of(sleeper.pid)
    process = find(name)
    assert process is not None and process.pid == sleeper.pid
    assert find(replace(name, start=name.start - 60)) is None  # its number was given out again
    assert find(replace(name, host="another")) is None and find(None) is None
    sleeper.kill()
    until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
    assert find(name) is None  # it has ended, though nobody has taken note
    sleeper.wait()
    assert find(name) is None
    assert name_of().pid == os.getpid()


@pytest.mark.parametrize("value", [None, [], {"pid": 1}, {"pid": "1", "host": "a", "start": 1.0}])
def test_what_names_no_process_is_none(value):
    assert name_from(value) is None
    assert find(name_from({"pid": -5, "host": name_of().host, "start": 1})) is None


def test_a_process_is_asked_or_killed(sleeper):
    ask_to_end(psutil.Process(sleeper.pid), None, None)
    assert sleeper.wait() == -signal.SIGTERM
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess as s; s.run(['sleep', '600'])"], start_new_session=True
    )
    child = until(psutil.Process(parent.pid).children)[0]
    kill(psutil.Process(parent.pid))
    assert parent.wait() == -signal.SIGKILL
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_run_counts_from_when_the_job_began(tmp_path):
    run = RunDir(tmp_path)
    assert run_status(run.path, 0.0) is None
    with StatusFile(run):
        status = run_status(run.path, 0.0)
        assert status is not None and status.state == "running"
        assert run_status(None, 0.0) is None and run_status(run.path, None) is None
        assert run_status(run.path, status.started + 60) is None  # of an earlier call


def test_the_signal_that_ended_a_process_is_named():
    assert died_of(1, {}) == "" and died_of(-77, {}) == "The process was ended from outside, by signal 77."
    assert "memory runs out" in died_of(-9, {9: "SIGKILL"})
