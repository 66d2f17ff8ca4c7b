from dataclasses import replace

import pytest

from blueprints import flux
from limner.errors import DoesNotFit
from limner.planning import run_plan as module
from limner.planning.advice import misfit
from limner.planning.cards import CARDS, known
from limner.planning.choice import PlanRequest
from limner.planning.counts import counts_of
from limner.planning.devices import of_card, of_cpu
from limner.planning.memory import moving_bytes
from limner.planning.planner import PlanResult
from limner.planning.run_plan import run_plan_of, shared
from limner.planning.search import choose
from limner.recipe.schema import Recipe


def planned(gigabytes: int) -> PlanResult:
    card, recipe = known("RTX 4090"), Recipe()
    assert card is not None
    device, profile = of_card(card, gigabytes * 2**30), flux()
    request = PlanRequest(compute="bf16", min_weight_precision="8bit", batches=(4,))
    rest = {"total": None, "alternatives": (), "misfit": None, "price": None}
    choice = choose(profile, device, request)
    return PlanResult(recipe, device, profile, request, counts_of(recipe), choice, **rest)


def test_the_trainer_is_given_what_was_planned_and_the_way_down() -> None:
    result = planned(24)
    choice, run_plan = result.choice, run_plan_of(result)
    assert choice is not None
    assert (run_plan.plan, run_plan.bytes, run_plan.kind) == (choice.plan, choice.reserved, "cuda")
    assert run_plan.record == result.plain() and run_plan.disk == result.disk
    lower = run_plan.down(run_plan.bytes)
    assert lower.bytes < run_plan.bytes and lower.record["plan"] == lower.plan.to_json()


def test_the_optimizer_asks_for_its_state_in_the_first_step_alone() -> None:
    result = planned(24)
    assert result.choice is not None
    first, later = run_plan_of(result).optimizer_bytes
    plan = result.choice.plan
    assert first == moving_bytes(result.profile, plan, "adamw", first=True) > later
    assert later == moving_bytes(result.profile, plan, "adamw")


def test_where_there_is_no_plan_it_says_why() -> None:
    result = planned(24)
    reason = misfit(
        result.profile,
        of_card(CARDS[0], 2**28),
        replace(result.request, compute="fp32"),
        profile_at=lambda _: result.profile,
    )
    with pytest.raises(DoesNotFit, match="GB"):
        run_plan_of(replace(result, choice=None, misfit=reason))


def test_processes_that_share_a_machine_plan_with_a_share_each(monkeypatch):
    monkeypatch.setattr(module.distributed, "local_world_size", lambda: 2)
    whole = of_cpu(2, 64 * 2**30, 60 * 2**30)
    assert (shared(whole).free, shared(whole).ram) == (whole.free // 2, whole.ram // 2)
    card = of_card(CARDS[0], 24 * 2**30)
    assert shared(card).free == card.free
    assert shared(card).pinned == card.pinned // 2
