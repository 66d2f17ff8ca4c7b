import time
from threading import Thread
from types import SimpleNamespace

from benchmarks.speed import caching


def test_clocks_count_what_is_inside_another_once_and_are_taken_away_again(monkeypatch):
    def inner() -> None:
        time.sleep(0.02)

    def outer() -> None:
        time.sleep(0.01)
        place.inner()

    place = SimpleNamespace(inner=inner, outer=outer)
    monkeypatch.setattr(caching, "IN_TURN", {"load": (place, "outer")})
    monkeypatch.setattr(caching, "IN_PARALLEL", {"decode": (place, "inner")})
    spent = {"load": 0.0, "decode": 0.0}
    with caching.clocks(spent):
        start = time.perf_counter()
        place.outer()
        place.inner()
        whole = time.perf_counter() - start
    assert spent["decode"] >= 0.04 and spent["load"] >= 0.01
    assert sum(spent.values()) <= whole
    assert place.inner is inner and place.outer is outer


def test_what_runs_in_a_thread_is_not_taken_off_what_waits_for_it(monkeypatch):
    place = SimpleNamespace(beside=lambda: time.sleep(0.02))
    place.waits = lambda: run_in_thread(place.beside)
    monkeypatch.setattr(caching, "IN_TURN", {"load": (place, "waits")})
    monkeypatch.setattr(caching, "IN_PARALLEL", {"decode": (place, "beside")})
    spent = {"load": 0.0, "decode": 0.0}
    with caching.clocks(spent):
        place.waits()
    assert spent["decode"] >= 0.02 and spent["load"] >= 0.02


def run_in_thread(work) -> None:
    thread = Thread(target=lambda: work())
    thread.start()
    thread.join()
