import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from limner.bases.demo_sets import folder
from limner.cli import show
from limner.cli.processes import (
    PARENT,
    environment,
    require_room,
    train_together,
    without_flag,
)
from limner.cli.show import ERROR_FILE
from limner.errors import BadUsage
from limner.run_folder import RunDir
from messages import raises

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
rank, here = os.environ["RANK"], Path(__file__).parent
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
told = {name: os.environ[name] for name in names} | {"line": sys.argv[1:]}
(here / f"{rank}.txt").write_text(json.dumps(told))
def wait(seconds=60):
    time.sleep(seconds)
def fail(text, code):
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": {"message": text}}))
    sys.exit(code)
"""


@pytest.fixture
def children(tmp_path, monkeypatch):
    """A package ``limner`` whose processes do what is written here; gives what each was told."""
    home = tmp_path / "fake" / "limner"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(home.parent))
    monkeypatch.delenv("RANK", raising=False)

    def run(script, count=2, arguments=("train", "photos", "--processes", "2"), **keys):
        (home / "__main__.py").write_text(CHILD + script)
        code = train_together(count, list(arguments), **keys)
        return code, [json.loads((home / f"{rank}.txt").read_text()) for rank in range(count)]

    run.home = home
    return run


def test_each_knows_of_the_others(children):
    code, told = children("", count=3, arguments=["train", "photos", "--processes", "3", "--steps", "9"])
    assert code == 0
    assert [child["RANK"] for child in told] == [child["LOCAL_RANK"] for child in told] == ["0", "1", "2"]
    assert {child["WORLD_SIZE"] for child in told} == {child["LOCAL_WORLD_SIZE"] for child in told} == {"3"}
    assert len({(child["MASTER_ADDR"], child["MASTER_PORT"]) for child in told}) == 1
    assert {tuple(child["line"]) for child in told} == {("train", "photos", "--steps", "9")}


def test_the_first_failure_is_one_line_and_its_exit_code(children, capfd):
    start = time.monotonic()
    code, _ = children("fail('No disk. Clear some.', 3) if rank == '1' else wait()")
    assert code == 3 and time.monotonic() - start < 30, "the other is asked to end"
    assert (
        capfd.readouterr().err == "limner: error: Process 1 of the run failed first: No disk. Clear some.\n"
    )


def test_what_the_first_process_said_is_not_said_again(children, capfd):
    same = "wait(0.4 if rank == '0' else 0.1)\nfail('No base.', 2)"
    assert children(same)[0] == 2
    assert capfd.readouterr().err == ""


def test_a_lost_process_is_told_once_by_who_knows_which_it_was(children, capfd):
    script = """
from limner.cli.show import failure
if rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
wait(0.3)
failure("ProcessLost", "Another process of this run has ended.", as_json=False)
sys.exit(1)
"""
    real = Path(show.__file__).parents[1]
    (children.home / "__init__.py").write_text(f"__path__.append({str(real)!r})")
    assert children(script)[0] == 128 + signal.SIGKILL
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("limner: error: Process 1 of the run failed first: It ended without a word")


def test_one_that_does_not_end_is_ended(children, capfd):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwait(0.3)\nwait() if rank == '0' else sys.exit(1)"
    start = time.monotonic()
    assert children(deaf, grace=0.2)[0] == 1 and time.monotonic() - start < 30
    assert "Process 1 of the run failed first: It ended without a word" in capfd.readouterr().err


def test_one_that_was_killed_counts_as_in_a_shell_and_is_named(children, capfd):
    """The first one too, which says everything else by itself."""
    code, _ = children("os.kill(os.getpid(), signal.SIGKILL) if rank == '0' else wait()")
    assert code == 128 + signal.SIGKILL
    assert "Process 0 of the run failed first: It ended without a word" in capfd.readouterr().err


def test_signals_are_handed_on_and_the_own_handlers_come_back(children):
    script = "signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n(here / f'{rank}.up').touch()\nwait()"
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while len(list(children.home.glob("*.up"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert children(script)[0] == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_the_option_is_taken_off_the_line():
    assert without_flag(["train", "a", "--processes", "2", "--lr", "1", "--processes=3"]) == [
        "train",
        "a",
        "--lr",
        "1",
    ]


def test_processes_whose_parent_is_gone_end():
    code = "import time; from limner.cli.processes import end_with_parent as end; end(0.01); time.sleep(60)"
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    child = {**os.environ, PARENT: f"{int(gone.stdout)} 1.0"}
    assert subprocess.run([sys.executable, "-c", code], env=child, check=False).returncode == -signal.SIGTERM


def test_processes_whose_parent_lives_go_on():
    """In a process of its own: the watch lasts as long as the process, and ends it when it errs."""
    code = (
        "import time; from limner.cli.processes import end_with_parent as end; end(0.01); time.sleep(0.3); "
        "import threading; print([thread.name for thread in threading.enumerate()])"
    )
    child = {**os.environ, **environment(0, 2, 1)}
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=child, capture_output=True, text=True, check=True
    )
    assert "limner-parent" in outcome.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a process keeps the number of its parent there")
def test_processes_of_a_torchrun_that_was_killed_end():
    code = (
        "import time; from limner.cli.processes import end_with_parent as end; end(0.01); "
        "print('ready', flush=True); time.sleep(600)"
    )
    launcher = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); child.stdout.readline(); print(child.pid)"
    )
    names = {name: value for name, value in os.environ.items() if name != PARENT}
    done = subprocess.run(
        [sys.executable, "-c", launcher, code],
        env={**names, "TORCHELASTIC_RUN_ID": "none"},
        capture_output=True,
        text=True,
        check=True,
    )
    child = int(done.stdout)
    with suppress(psutil.Error):  # it may be gone already; its code would run for ten minutes
        psutil.Process(child).wait(300)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_room(2, "auto")
    require_room(8, "cpu")
    with raises(BadUsage):
        require_room(3, "auto")


def test_a_launcher_within_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with raises(BadUsage):
        require_room(2, "cpu")


def test_a_failure_is_written_where_the_launcher_looks(limner, tmp_path, monkeypatch):
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    done = limner("train", "nowhere")
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert done.err == f"limner: error: {message['message']}\n" and message["error"] == "BadUsage"


@pytest.mark.slow  # two processes that load torch: 15 s of two cores
def test_two_processes_train_together(tmp_path):
    names = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "limner", "train", str(folder("mascot")), "--processes", "2"]
    keys = ["--trigger", "zorbix", "--steps", "2", "--sample-every", "-1", "--set", "limits.device=cpu"]
    done = subprocess.run(
        [*command, *keys, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=names,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Trained: 2 steps") == 1 and "Traceback" not in done.stderr
    assert RunDir(tmp_path / "run").lora_path.is_file()
