import pytest

from blueprints import flux
from limner.errors import DoesNotFit
from limner.nn.memory.plan import Plan, RunPlan
from limner.planning.cards import known
from limner.planning.choice import PlanRequest
from limner.planning.devices import Device, of_card, of_cpu
from limner.planning.planner import PlanResult, counts_of
from limner.planning.profile import Profile
from limner.planning.run_plan import run_plan_of
from limner.planning.search import choose
from limner.recipe.schema import Recipe
from limner.training.oom_fallback import MAX_FALLS, OomFallback, changes


def _fallback(gigabytes: int) -> OomFallback:
    card = known("RTX 4090")
    assert card is not None
    return OomFallback(_planned(flux(), of_card(card, gigabytes * 2**30), batches=(4,)))


def _planned(profile: Profile, device: Device, batches: tuple[int, ...] = (1,)) -> RunPlan:
    recipe = Recipe()
    wish = PlanRequest(compute=device.computes("auto"), min_weight_precision="8bit", batches=batches)
    known = {"alternatives": (), "misfit": None, "price": None, "total": None}
    return run_plan_of(
        PlanResult(recipe, device, profile, wish, counts_of(recipe), choose(profile, device, wish), **known)
    )


def test_each_fall_takes_clearly_less_and_changes_no_precision() -> None:
    fallback = _fallback(24)
    for _ in range(MAX_FALLS):
        before, planned = fallback.plan, fallback.bytes
        after = fallback.down(planned)
        assert fallback.bytes <= 0.91 * planned
        assert (after.weights, after.compute, after.optimizer_state) == (
            before.weights,
            before.compute,
            before.optimizer_state,
        )
        assert after == fallback.plan and changes(before, after)
        assert fallback.run_plan.record["plan"] == after.to_json()


def test_what_took_more_than_planned_is_expected_to_again() -> None:
    one, other = _fallback(24), _fallback(24)
    one.down(one.bytes)
    other.down(2 * other.bytes)
    assert other.bytes < one.bytes


def test_it_steps_down_so_often_and_no_more() -> None:
    fallback = _fallback(24)
    for _ in range(MAX_FALLS):
        fallback.down(fallback.bytes)
    with pytest.raises(DoesNotFit, match=r"after 3 smaller plans: 20\.0 GB were in use.*--vram"):
        fallback.down(20 * 10**9)


def test_where_there_is_no_smaller_plan_it_says_what_to_lower() -> None:
    fallback = _fallback(80)
    with pytest.raises(DoesNotFit, match=r"Out of memory at .* of .*Lower data\.resolution.*limner plan"):
        fallback.down(40 * fallback.run_plan.free)


def test_the_watch_is_told_what_is_planned() -> None:
    fallback = _fallback(24)
    watch = fallback.watch()
    assert (watch.device, watch.bytes, watch.seconds) == (
        "cuda",
        fallback.run_plan.bytes,
        fallback.run_plan.seconds_per_step,
    )


def test_changes_are_named() -> None:
    assert (
        changes(Plan(), Plan(checkpointed_blocks=3, micro_batch=2))
        == "checkpointed_blocks 0 -> 3, micro_batch 1 -> 2"
    )


def test_on_a_processor_what_the_process_holds_already_counts() -> None:
    fallback = OomFallback(_planned(flux(256), of_cpu(2, 64 * 2**30, 60 * 2**30)), process=3 * 2**30)
    assert fallback.bytes == fallback.run_plan.bytes + 3 * 2**30
