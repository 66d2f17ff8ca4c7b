import pytest

from launching.machines import Row, catalogue, without_skypilot
from limner.errors import BadUsage
from limner.launching.clouds import Gpus
from limner.launching.offers import offers
from messages import raises

ROWS = [
    Row("AWS", "H100", 1, 4.0, 2.0),
    Row("AWS", "H100", 1, 3.5),
    Row("AWS", "H100", 8, 30.0),
    Row("Lambda", "H100", 1, 2.5),
    Row("RunPod", "RTX4090", 1, 0.5, 0.3, memory=None),
    Row("GCP", "tpu-v5", 1, 0.1),
    Row("GCP", "L4", 0.5, 0.1),
    Row("GCP", "T4", 1, float("nan")),
]


def test_the_cheapest_of_each_cloud_and_gpu_is_offered(monkeypatch):
    calls = catalogue(monkeypatch, ROWS)
    found = offers(None, "", spot=False, bucket=False)
    assert [(offer.cloud, offer.gpus.text, offer.price) for offer in found] == [
        ("runpod", "RTX4090:1", 0.5),
        ("lambda", "H100:1", 2.5),
        ("aws", "H100:1", 3.5),
    ]
    assert calls == [{"gpus_only": True, "clouds": None}]


def test_wishes_leave_some_out(monkeypatch):
    catalogue(monkeypatch, ROWS)
    assert [o.price for o in offers(Gpus("H100", 8), "", spot=False, bucket=False)] == [30.0]
    assert [o.price for o in offers(None, "", spot=True, bucket=False)] == [0.3, 2.0]
    assert [o.cloud for o in offers(None, "", spot=True, bucket=True)] == ["aws"]
    assert [o.cloud for o in offers(None, "lambda", spot=False, bucket=True)] == ["lambda"]


def test_what_is_not_offered_is_told(monkeypatch):
    catalogue(monkeypatch, ROWS)
    with raises(BadUsage):
        offers(Gpus("H100", 2), "lambda", spot=True, bucket=False)


def test_no_skypilot_or_no_network_is_told(monkeypatch: pytest.MonkeyPatch):
    without_skypilot(monkeypatch)
    with raises(BadUsage):
        offers(None, "", spot=False, bucket=False)
    catalogue(monkeypatch, ConnectionError("no route to raw.githubusercontent.com\nretries exceeded"))
    with raises(BadUsage):
        offers(None, "", spot=False, bucket=False)
