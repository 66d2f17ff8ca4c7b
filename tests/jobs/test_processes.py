import signal
import subprocess
import sys

import psutil
import pytest

from limner.jobs.processes import ask_to_end, died_of, kill, run_status
from limner.run_folder import RunDir
from limner.status import StatusFile
from waiting import until


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


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
