import pytest

from limner.bases import clock
from limner.bases.clock import Clock


def test_the_rate_is_held_and_then_falls_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    one = Clock(60)
    assert one.cosine(0.5) == 1.0
    assert not one.over()
    now = 130.0
    assert one.cosine(0.5) == 1.0
    now = 145.0
    assert one.cosine(0.5) == pytest.approx(0.5)
    now = 161.0
    assert one.cosine(0.5) == pytest.approx(0.0)
    assert one.over()
    assert one.share() > 1
