import sys

import pytest

from benchmarks.speed import floor


def test_each_program_is_timed_in_each_round_but_the_first(monkeypatch):
    calls = []
    monkeypatch.setattr(floor, "cpu_seconds", lambda command: calls.append(command) or float(len(calls)))
    seconds = floor.measure(2)
    assert list(seconds) == [*floor.LIBRARIES, floor.TRAINING]
    assert [values[0] for values in seconds.values()] == [5.0, 6.0, 7.0, 8.0] and len(calls) == 12
    assert calls[3][2:4] == ["limner", "train"] and calls[3] != calls[7], "each round has folders of its own"


def test_a_program_that_fails_is_no_measurement():
    assert 0 < floor.cpu_seconds([sys.executable, "-c", "sum(range(10))"]) < 5
    with pytest.raises(RuntimeError, match="ended with 3"):
        floor.cpu_seconds([sys.executable, "-c", "raise SystemExit(3)"])
