import json
import os
import time

import pytest

from limner.cli.detach import detached
from limner.errors import RunBusy
from limner.run_folder import RunDir

CHILD = """
import os, sys
sys.stderr.write(f"{os.environ['LIMNER_SILENT']} {os.getsid(0) == os.getpid()} {sys.argv[1:]}\\n")
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package ``limner`` that writes how it was started, for the process in the background."""
    (tmp_path / "fake" / "limner").mkdir(parents=True)
    (tmp_path / "fake" / "limner" / "__init__.py").touch()
    (tmp_path / "fake" / "limner" / "__main__.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))


def test_the_command_goes_on_in_a_session_of_its_own(tmp_path, stand_in, capsys):
    run = RunDir(tmp_path / "run")
    arguments = ["train", "photos", "--detach", "--steps", "9", "--json"]
    detached(run.path, as_json=True, arguments=arguments)
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["log"]) == (str(run.path), str(run.log_path))
    for _ in range(1200):
        if run.log_path.read_text().endswith("\n"):
            break
        time.sleep(0.1)
    assert run.log_path.read_text() == "1 True ['train', 'photos', '--steps', '9']\n"
    assert told["pid"] != os.getpid()


def test_it_says_how_to_follow_and_to_stop(tmp_path, stand_in, capsys):
    detached(tmp_path / "run", as_json=False, arguments=["train", "photos", "--detach"])
    first, follow, stop = capsys.readouterr().out.splitlines()
    assert first.startswith("Process ") and first.endswith(f"trains in {tmp_path / 'run'}.")
    assert f"limner status {tmp_path / 'run'}" in follow and f"limner ask {tmp_path / 'run'} stop" in stop


def test_a_folder_that_is_in_use_is_told_before_anything_starts(tmp_path, stand_in):
    run = RunDir(tmp_path / "run")
    with run.lock(), pytest.raises(RunBusy):
        detached(run.path, as_json=False, arguments=["train", "photos", "--detach"])
    assert not run.log_path.exists()
