"""The script of the lent GPU: order, time, and nothing lost."""

import argparse
import sys

import pytest

from gpu import day
from gpu.cells import CELLS


def options(tmp_path, **values):
    defaults = {"plans": tmp_path / "plans.json", "out": tmp_path, "tiny": False}
    return argparse.Namespace(**(defaults | values))


def test_the_card_is_measured_first_and_every_cell_of_the_day_exists(tmp_path):
    names, commands = zip(*day.steps(options(tmp_path)), strict=True)
    assert names == ("calibrate", "1", "4-5", "9", "1c", "10", "6b", "8")
    cells = {cell.name for cell in CELLS}
    assert {name for step in names[1:] for name in step.split("-")} <= cells
    assert "--calibrate" in commands[0]
    assert "--gradients" in commands[-1]
    assert all("--plans" in command for command in commands[1:])


@pytest.mark.parametrize(("seconds", "begun"), [(0, 0), (600, 8)])
def test_time_that_is_over_begins_nothing(tmp_path, monkeypatch, capsys, seconds, begun):
    ran = []
    monkeypatch.setattr(day, "_run", lambda command, limit, log: ran.append(limit) or "done")
    monkeypatch.setattr(sys, "argv", ["day", "--tiny", "--seconds", str(seconds), "--out", str(tmp_path)])
    day.main()
    assert len(ran) == begun
    assert all(limit <= seconds for limit in ran)
    assert capsys.readouterr().err.count("no time left") == 8 - begun


def test_a_step_that_fails_or_takes_too_long_says_so_and_the_next_begins(tmp_path):
    assert day._run([sys.executable, "-c", "raise SystemExit(3)"], 60, tmp_path / "a.log") == "ended with 3"
    wait = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert day._run(wait, 0.1, tmp_path / "b.log") == "stopped, no time left"
