import io
import sys

import pytest

from gpu import emulation
from gpu.cells import GIB
from gpu.emulation import CONTEXT, Gauge, ballast, hold, played

H100 = round(79.1 * GIB)


class Runtime:
    """A CUDA runtime with so much memory, which refuses what is more."""

    def __init__(self, free: int, *, least: int = 0) -> None:
        self.free, self.least, self.taken = free, least, []

    def cudaMemGetInfo(self, free, total) -> int:  # noqa: N802  CUDA's name
        free._obj.value, total._obj.value = self.free, H100
        return 0

    def cudaMalloc(self, place, size) -> int:  # noqa: N802  CUDA's name
        if self.free - size.value < self.least:
            return 2
        self.free -= size.value
        self.taken.append(size.value)
        return 0


def test_a_card_leaves_room_for_a_desktop_and_what_torch_does_not_count():
    small, server = played(24), played(80)
    assert small.usable == 23 * GIB
    assert small.cap == 23 * GIB - CONTEXT
    assert server.usable == 80 * GIB
    assert small.fraction(H100) == pytest.approx((23 - 500 / 1024) / 79.1)
    assert server.fraction(H100) == 1.0


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_cap_and_ballast_agree(gib):
    card = played(gib)
    free = round(78.6 * GIB)
    assert free - card.ballast(free) == card.usable
    assert card.fraction(H100) * H100 + CONTEXT == pytest.approx(card.usable)


def test_no_ballast_where_there_is_less_than_the_card_has():
    assert played(80).ballast(round(78.6 * GIB)) == 0


def test_memory_is_held_until_it_is_told_to_stop(monkeypatch):
    fake, said, waited = Runtime(10 * GIB), io.StringIO(), []
    monkeypatch.setattr(emulation, "runtime", lambda: fake)
    assert hold(7 * GIB + 5, said, lambda: waited.append(fake.free)) == 3 * GIB - 5
    assert sum(fake.taken) == 3 * GIB - 5
    assert waited == [7 * GIB + 5]
    assert said.getvalue() == f"{3 * GIB - 5} {7 * GIB + 5} {H100}\n"


def test_refused_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(emulation, "runtime", lambda: Runtime(10 * GIB, least=8 * GIB))
    with pytest.raises(OSError, match="cudaMalloc answered 2"):
        hold(GIB, io.StringIO(), lambda: None)


def test_ballast_lives_as_long_as_the_block(tmp_path):
    mark = tmp_path / "over"
    program = f"import sys; print('5 7 9', flush=True); sys.stdin.read(); open({str(mark)!r}, 'w')"
    with ballast(played(8), command=[sys.executable, "-c", program]) as seen:
        assert seen == (5, 7)
        assert not mark.exists()
    assert mark.exists()


def test_ballast_that_cannot_be_taken_is_an_error():
    with (
        pytest.raises(OSError, match="card of 8 GiB"),
        ballast(played(8), command=[sys.executable, "-c", "raise SystemExit(1)"]),
    ):
        pass


def test_gauge_keeps_the_most_above_the_start(monkeypatch):
    monkeypatch.setattr(emulation, "PERIOD", 0.001)
    readings = iter([100, 150, 400, 300])
    last = 300
    with Gauge(lambda: next(readings, last)) as gauge:
        while gauge.peak != 300:
            pass
    assert gauge.peak == 300


def test_a_driver_that_tells_no_number_leaves_the_gauge_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(emulation, "find_spec", lambda _: None)
    driver = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for said, read in (("400", 400 * 2**20), ("[N/A]", None)):
        driver.write_text(f"#!/bin/sh\necho '{said}'\n")
        driver.chmod(0o755)
        found = Gauge().read
        assert (found and found()) == read
