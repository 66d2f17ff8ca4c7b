import time
from types import SimpleNamespace

import caching


def test_clocks_count_what_is_inside_another_once_and_are_taken_away_again(monkeypatch):
    def inner() -> None:
        time.sleep(0.02)

    def outer() -> None:
        time.sleep(0.01)
        place.inner()

    place = SimpleNamespace(inner=inner, outer=outer)
    monkeypatch.setattr(caching, "CLOCKED", {"write": (place, "outer"), "decode": (place, "inner")})
    spent = {"write": 0.0, "decode": 0.0}
    with caching.clocks(spent):
        start = time.perf_counter()
        place.outer()
        place.inner()
        whole = time.perf_counter() - start
    assert spent["decode"] >= 0.04 and spent["write"] >= 0.01
    assert sum(spent.values()) <= whole
    assert place.inner is inner and place.outer is outer
