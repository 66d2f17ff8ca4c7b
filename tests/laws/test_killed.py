"""Law 3: killed at any moment: no half-written file is ever read; nothing finished is lost."""

import pytest
from benchmarks.robustness.kill import PLACES, prepare, rounds


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(tiny_base, tmp_path):
    """Once by the clock and once in training; 50 times in ``benchmarks/results/kill.json``."""
    done = list(rounds(prepare(tiny_base, tmp_path / "line"), count=2, seed=1))
    assert sum(each.place != PLACES[4] for each in done) == 2
    assert done[-1].place == PLACES[4] and done[-1].saved == 24
