import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from limner import process_names
from limner.process_names import birth, find, name_from, name_of
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
    assert find(replace(name, host="another")) is None and find(None) is None
    sleeper.kill()
    until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
    assert find(name) is None  # it has ended, though nobody has taken note
    sleeper.wait()
    assert find(name) is None
    assert name_of().pid == os.getpid()


@pytest.mark.skipif(not birth(os.getpid()), reason="this system has no /proc")
def test_a_clock_that_is_set_changes_no_name(sleeper):
    name = name_of(sleeper.pid)
    assert (
        find(replace(name, start=name.start - 3600)) is not None
    )  # what it was called an hour ago by the clock
    boot, ticks = name.birth.split()
    assert find(replace(name, birth=f"{boot} {int(ticks) - 1}")) is None  # its number was given out again
    assert find(replace(name, birth=f"another-boot {ticks}")) is None  # before a restart of the computer


def test_where_the_system_tells_no_ticks_the_time_of_the_start_counts(sleeper, monkeypatch, tmp_path):
    monkeypatch.setattr(process_names, "PROC", tmp_path)
    name = name_of(sleeper.pid)
    assert name.birth == "" and find(name) is not None
    assert find(replace(name, start=name.start - 60)) is None


def test_a_name_says_nothing_of_what_a_process_calls_itself(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(3, 40))
    (tmp_path / "7" / "stat").write_text(f"7 (a) 1 (b) {fields}")
    monkeypatch.setattr(process_names, "PROC", tmp_path)
    assert birth(7).split()[-1] == "22"  # the 22nd field, whatever stands in the parentheses


@pytest.mark.parametrize("value", [None, [], {"pid": 1}, {"pid": "1", "host": "a", "start": 1.0}])
def test_what_names_no_process_is_none(value):
    assert name_from(value) is None
    assert find(name_from({"pid": -5, "host": name_of().host, "start": 1})) is None
    assert name_from({"pid": 1, "host": "a", "start": 1, "birth": 3}) == name_from(
        {"pid": 1, "host": "a", "start": 1.0}
    )
