import pytest
from benchmarks.speed.loop_overhead import WARM_UP, Turns, summary

from benchmarks.speed import loop_overhead


def test_both_sides_take_turns_and_each_of_limners_blocks_lies_between_two_bare_ones():
    said: list[str] = []
    turns = Turns(lambda: said.append("bare"), block=2)
    with turns.progress("Training", WARM_UP + 6) as bar:
        for _ in range(WARM_UP + 6):
            said.append("limner")
            bar.advance(note="loss 1")
    assert said[:WARM_UP] == ["bare"] * WARM_UP
    assert said[WARM_UP:] == ["limner"] * WARM_UP + (["bare"] * 2 + ["limner"] * 2) * 3 + ["bare"] * 2
    assert (len(turns.spent["limner"]), len(turns.spent["bare"])) == (3, 4)


def test_overhead_is_the_median_over_blocks(monkeypatch):
    clock = [0.0, 0.0]

    def work(wall: float, cpu: float) -> None:
        clock[0] += wall
        clock[1] += cpu

    monkeypatch.setattr(loop_overhead, "_now", lambda: (clock[0], clock[1]))
    turns = Turns(lambda: work(0.010, 0.020), block=2)
    with turns.progress("Training", WARM_UP + 10) as bar:
        for step in range(WARM_UP + 10):
            work(0.5 if step == WARM_UP + 3 else 0.011, 0.021)  # something else had the machine for one step
            bar.advance()
    found = summary(turns, 2)
    assert found["blocks"] == 5
    assert (found["bare_ms"], found["limner_ms"]) == pytest.approx((10, 11))
    assert found["overhead_wall"] == pytest.approx(0.10)
    assert found["overhead_cpu"] == pytest.approx(0.05)


def test_caching_takes_no_turns():
    turns = Turns(lambda: pytest.fail("the bare loop ran while caching"), block=1)
    with turns.progress("Caching", 20) as bar:
        bar.advance(20)
    assert turns.spent == {"limner": [], "bare": []}
    assert loop_overhead.LIMIT == 0.03
