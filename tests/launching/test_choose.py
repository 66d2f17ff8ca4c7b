from dataclasses import replace

import pytest

from launching.machines import profile_at_hand, toy
from limner.errors import BadUsage, DoesNotFit
from limner.launching import choose
from limner.launching.choose import cheapest, planned
from limner.launching.clouds import Gpus
from limner.launching.offers import Offer
from limner.recipe.toml import change
from limner.reporter import Reporter
from messages import raises


def offer(name: str, price: float, cloud: str = "aws", memory: float | None = 32) -> Offer:
    return Offer(cloud=cloud, gpus=Gpus(name), price=price, memory=memory)


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    profile_at_hand(monkeypatch)


def test_a_machine_has_what_the_plan_wants(tmp_path):
    machine = planned(toy(tmp_path), Gpus("H100"), Reporter(), offer("H100", 3.0))
    assert 0 < machine.reserved < 4 * 2**30 and 4 < machine.memory < 16 and 30 < machine.disk < 40
    assert machine.cost == pytest.approx(3.0 * machine.hours) and machine.cloud == "aws" and not machine.gated
    assert planned(toy(tmp_path), Gpus("H100"), Reporter()).cost is None


def test_two_gpus_share_a_batch(tmp_path):
    recipe = toy(tmp_path, **{"train.batch": 512, "sample.every": -1})
    one, two = (planned(recipe, Gpus("T4", count), Reporter()) for count in (1, 2))
    assert two.hours < one.hours and two.reserved < one.reserved and two.memory > one.memory
    with raises(BadUsage):
        planned(toy(tmp_path), Gpus("T4", 4), Reporter())


def test_the_cheapest_run_wins_not_the_cheapest_hour(tmp_path, monkeypatch):
    hours = {"T4": 10.0, "H100": 1.0}
    plan = planned(toy(tmp_path), Gpus("T4"), Reporter())
    calls = []

    def fake(recipe, gpus, reporter, offer):
        calls.append(gpus.text)
        if gpus.name == "L4":
            raise DoesNotFit("no")
        return replace(plan, gpus=gpus, hours=hours[gpus.name])

    monkeypatch.setattr(choose, "planned", fake)
    choices = [offer("T4", 0.5), offer("L4", 0.01), offer("H100", 2.0), offer("H100", 1.5, "lambda")]
    best = cheapest(toy(tmp_path), choices, Reporter())
    assert (best.gpus.name, best.cloud, best.price, best.cost) == ("H100", "lambda", 1.5, 1.5)
    assert sorted(calls) == ["H100:1", "L4:1", "T4:1"]


def test_a_run_that_fits_nowhere_is_told(tmp_path):
    tight = change(toy(tmp_path), {"limits.vram": "20MB"})
    with pytest.raises(DoesNotFit, match="glyph does not fit H100:1: "):
        cheapest(tight, [offer("T4", 1.0), offer("H100", 2.0)], Reporter())
