from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blueprints import flux
from limner.errors import BadRecipe, DoesNotFit
from limner.nn.memory.plan import Plan
from limner.planning import run_plan as module
from limner.planning.advice import misfit
from limner.planning.cards import CARDS, known
from limner.planning.choice import PlanRequest
from limner.planning.counts import counts_of
from limner.planning.devices import of_card, of_cpu
from limner.planning.memory import moving_bytes
from limner.planning.planner import PlanResult
from limner.planning.run_plan import plan_run, run_plan_of, shared
from limner.planning.search import choose
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from messages import raises

HERE = of_cpu(2, 64 * 2**30, 60 * 2**30)


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


@pytest.fixture
def group(monkeypatch) -> Callable[[list[tuple[int, str, Plan]]], None]:
    """Has this process take itself for the first of several, of which the others say what is given."""

    def with_others(entries: list[tuple[int, str, Plan]]) -> None:
        def gather(entry: tuple[Any, ...]) -> list[Any]:
            if len(entry) == 2:  # micro-batch and its seconds, of others that are half as fast
                return [entry, *((1, 2 * entry[1] / entry[0]) for _ in entries)]
            return [entry, *entries]

        monkeypatch.setattr(module.distributed, "world", lambda: 1 + len(entries))
        monkeypatch.setattr(module.distributed, "gather", gather)
        monkeypatch.setattr(
            module, "shared", lambda device: replace(device, free=min(device.free, 8 * 2**30))
        )
        monkeypatch.setattr(module, "device_for", lambda _: HERE)

    return with_others


def recipe_of(photos: Path, **more: Any) -> Recipe:
    return Recipe.model_validate({"base": "glyph", "data": {"images": str(photos)}, **more})


def test_a_process_plans_its_share_of_the_images(group, photos):
    group([])
    whole = plan_run(recipe_of(photos, train={"batch": 4}), Reporter())
    group([(HERE.free // 2, "cpu", whole.plan)])
    share = plan_run(recipe_of(photos, train={"batch": 4}), Reporter())
    assert whole.plan.micro_batch == 4 and share.plan.micro_batch == 2 and share.is_common
    assert share.seconds_per_step < whole.seconds_per_step


def test_unequal_devices_have_plans_of_their_own_in_one_precision(group, photos):
    group([])
    plan = plan_run(recipe_of(photos), Reporter()).plan
    group([(8 * 2**30, "cpu", plan)])
    recipe = recipe_of(photos, train={"batch": 4, "steps": 100})
    result = plan_run(recipe, Reporter())
    first, second = result.record["processes"]
    assert not result.is_common and (result.plan.compute, result.plan.weights) == (plan.compute, plan.weights)
    assert first["micro_batch"] == 2 and second["micro_batch"] == 1
    pace = first["seconds_per_micro_batch"] / 2
    assert second["seconds_per_micro_batch"] == pytest.approx(2 * pace)
    assert result.seconds_per_step == result.record["seconds_per_step"] == pytest.approx(4 * pace / 1.5)


def test_a_full_fine_tune_has_one_plan_for_all(group, photos):
    group([])
    recipe = recipe_of(photos, train={"batch": 4, "method": "full"})
    plan = plan_run(recipe, Reporter()).plan
    group([(8 * 2**30, "cpu", plan)])
    assert plan_run(recipe, Reporter()).is_common


def test_more_processes_than_images_are_refused(group, photos):
    group([(60 * 2**30, "cpu", Plan())] * 2)
    with raises(BadRecipe):
        plan_run(recipe_of(photos, train={"batch": 2}), Reporter())


def test_processes_that_compute_in_different_numbers_are_refused(group, photos):
    group([(8 * 2**30, "RTX 2080", Plan(compute="fp16", weights="fp16"))])
    with raises(BadRecipe):
        plan_run(recipe_of(photos, train={"batch": 2}), Reporter())
