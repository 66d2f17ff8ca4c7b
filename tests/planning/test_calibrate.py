import json

import pytest
import torch

from limner.errors import BadUsage
from limner.planning import calibrate as room
from limner.planning.calibrate import Bench, calibrate
from limner.planning.local_device import constants_path, device_for
from limner.recipe.schema import Limits
from limner.reporter import PlainText, Reporter
from messages import raises


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_device_is_measured_and_every_plan_to_come_knows_it(capsys):
    before = device_for(Limits(device="cpu"))
    device = calibrate(Limits(device="cpu"), Reporter(PlainText()), seconds=0.3)
    after = device_for(Limits(device="cpu"))
    assert after.rates == device.rates != before.rates
    assert "measured on this machine" in after.source
    rates = after.rates
    assert 1e9 < rates.gemm["fp32"] < 1e14
    assert set(rates.expand) == {"int8", "fp8", "nf4"}
    assert 1e-7 < rates.launch < 1e-3
    assert min(rates.traffic, rates.copy, rates.attention["fp32"], rates.attention_backward["fp32"]) > 1e8
    kept = json.loads(constants_path(after.name).read_text())
    assert kept["torch"] == torch.__version__
    assert "TFLOP/s" in capsys.readouterr().err


def test_the_first_rounds_do_not_count():
    calls = []
    bench = Bench(torch.device("cpu"), room.SMALL, seconds_each=0.0)
    assert 0 <= bench.seconds(lambda: calls.append(len(calls))) < 0.1
    assert len(calls) == room.WARM + 5


def test_a_card_that_torch_cannot_use_is_told(monkeypatch):
    gpu = device_for(Limits(), card="RTX 4090")
    monkeypatch.setattr(room, "device_for", lambda limits: gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises(BadUsage):
        calibrate(Limits(), Reporter())


def test_products_in_8_bits_are_measured():
    bench = Bench(torch.device("cpu"), room.SMALL, seconds_each=0.001)
    assert 1e6 < room._w8a8(bench, "int8") < 1e15
