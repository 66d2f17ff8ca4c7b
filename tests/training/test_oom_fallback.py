import json
from dataclasses import replace

import pytest
import torch

from blueprints import flux
from limner.errors import DoesNotFit
from limner.nn import loop
from limner.nn.memory.plan import Plan, RunPlan
from limner.planning.cards import known
from limner.planning.choice import PlanRequest
from limner.planning.counts import counts_of
from limner.planning.devices import Device, of_card, of_cpu
from limner.planning.planner import PlanResult
from limner.planning.profile import Profile
from limner.planning.run_plan import run_plan_of
from limner.planning.search import choose
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import encode, state
from limner.training import oom_fallback as module
from limner.training import train as train_module
from limner.training.oom_fallback import MAX_FALLS, OomFallback, changes, release, retry_on_oom
from messages import raises
from small import Told, weights, wish


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


def test_what_fails_for_want_of_memory_is_done_again_lower() -> None:
    told: list[str] = []

    def act() -> int:
        if len(told) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 7

    assert retry_on_oom(act, told.append) == 7
    assert told == ["CUDA out of memory"] * 2


def test_what_another_process_lacks_is_done_again_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(module.distributed, "any_rank", lambda _: not told)
    assert retry_on_oom(lambda: 7, told.append) == 7
    assert told == ["Another process ran out of memory."]


def test_other_errors_and_no_lower_way_end_it() -> None:
    def act() -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def lower(_: str) -> None:
        raise DoesNotFit("Nothing is smaller.")

    with raises(DoesNotFit):
        retry_on_oom(act, lower)
    with pytest.raises(ZeroDivisionError):
        retry_on_oom(lambda: 1 // 0, lower)


def test_what_failed_is_given_back_and_peaks_are_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak of the plan before would make the next one look wrong, and the one after it far too small."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: done.append("reset"))
    release(torch.device("cpu"))
    assert not done
    release(torch.device("cuda"))
    assert done == ["emptied", "reset"]


def test_an_encoder_that_does_not_fit_comes_in_another_way(tiny_base, photos, tmp_path, monkeypatch) -> None:
    recipe = wish(tiny_base, photos, train={"steps": 1})
    train(recipe, tmp_path / "whole", Told())
    true, left = encode._fill, [1]

    def short(*given):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true(*given)

    monkeypatch.setattr(encode, "_fill", short)
    monkeypatch.setattr(module.OomFallback, "encode_down", lambda self, _: self.plan)
    told = Told()
    train(wish(tiny_base, photos, train={"steps": 1}), tmp_path / "run", told)
    assert "Out of memory while the cache is filled. Going on by a smaller plan" in told.text


def _short(monkeypatch, at: int, times: int) -> None:
    """Memory runs out ``times`` times in the second half of step ``at``."""
    true, left = train_module.TrainableModel.losses, [times]

    def losses(self, step):
        for loss in true(self, step):
            yield loss
            if step == at and left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train_module.TrainableModel, "losses", losses)


def test_out_of_memory_steps_down_and_goes_on_with_the_same_training(
    tiny_base, photos, tmp_path, monkeypatch
):
    recipe = wish(tiny_base, photos, train={"steps": 3, "batch": 4})
    train(recipe, tmp_path / "whole", Told())
    _short(monkeypatch, at=1, times=2)
    told = Told()
    train(recipe, tmp_path / "run", told)
    assert "Out of memory after step 1. Going on by a smaller plan, with the same batch" in told.text
    rows = [row for row in RunDir(tmp_path / "run").metrics() if "out_of_memory" in row]
    assert [row["step"] for row in rows] == [1, 1]
    assert rows[0]["plan"] != rows[1]["plan"] and "Tried to allocate" in rows[0]["out_of_memory"]
    one, other = weights(tmp_path / "run", 3), weights(tmp_path / "whole", 3)
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-5) for name in other)


def _out_of_memory(monkeypatch, owner, name: str, when=lambda *_: True, times: int = 1) -> list[int]:
    """Memory runs out in a call so often; what is left of that."""
    true, left = getattr(owner, name), [times]

    def act(*given, **named):
        if left[0] and when(*given):
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return true(*given, **named)

    monkeypatch.setattr(owner, name, act)
    return left


PLACES = {
    "loading": (train_module.TrainableModel, "__init__", "Out of memory while the base is read"),
    "backward": (torch.Tensor, "backward", "Out of memory after step 0"),
    "optimizer": (loop, "_require_memory", "Out of memory after step 0"),
    "measuring": (train_module.TrainableModel, "validation_losses", "Out of memory after step 0"),
    "sampling": (train_module.TrainableModel, "sample", "Out of memory after step 0"),
    "final weights": (state, "evaluation_mode", "Out of memory after step 0"),
}


@pytest.mark.parametrize("where", PLACES)
def test_memory_may_run_out_anywhere(tiny_base, photos, tmp_path, monkeypatch, where: str):
    sections = {"sample": {"every": 0, "prompts": ["zorb"], "steps": 1}} if where == "sampling" else {}
    recipe = wish(tiny_base, photos, train={"steps": 2, "batch": 4}, **sections)
    train(recipe, tmp_path / "whole", Told())
    if sections:
        monkeypatch.setattr(PlanResult, "down", _smaller_micro_batch)
    owner, name, words = PLACES[where]
    left, told = _out_of_memory(monkeypatch, owner, name), Told()
    train(recipe, tmp_path / "run", told)
    assert left == [0] and words in told.text and "failed" not in told.text
    run = RunDir(tmp_path / "run")
    (row,) = [row for row in run.metrics() if "out_of_memory" in row]
    assert row["plan"] == json.loads(run.plan_path.read_text())["plan"]
    assert list(run.samples()) == ([0, 2] if sections else [])
    one, other = weights(tmp_path / "run", 2), weights(tmp_path / "whole", 2)
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-5) for name in other)


def _smaller_micro_batch(planned, _):
    """Of so small a base the pictures take most, and no plan makes them smaller."""
    plan = replace(planned.choice.plan, micro_batch=planned.choice.plan.micro_batch // 2)
    return replace(planned, choice=replace(planned.choice, plan=plan))


def test_memory_that_runs_out_while_a_plan_is_put_on_takes_the_next(tiny_base, photos, tmp_path, monkeypatch):
    _short(monkeypatch, at=1, times=1)
    _out_of_memory(monkeypatch, train_module.TrainableModel, "follow")
    told = Told()
    train(wish(tiny_base, photos, train={"steps": 2, "batch": 4}), tmp_path / "run", told)
    rows = [row for row in RunDir(tmp_path / "run").metrics() if "out_of_memory" in row]
    assert len(rows) == 2 and rows[0]["plan"] != rows[1]["plan"]
    assert told.text.count("Out of memory after step 1.") == 2


def test_pictures_leave_the_last_plan_to_the_training(tiny_base, photos, tmp_path, monkeypatch):
    sample = {"every": 1, "prompts": ["zorb"], "steps": 1}
    _out_of_memory(monkeypatch, train_module.TrainableModel, "sample", times=99)
    monkeypatch.setattr(PlanResult, "down", _smaller_micro_batch)
    told = Told()
    done = train(
        wish(tiny_base, photos, train={"steps": 2, "batch": 4}, sample=sample), tmp_path / "run", told
    )
    assert done.lora.exists() and told.text.count("Out of memory after step") == 2
    assert "Samples at step 2 failed (CUDA out of memory" in told.text


def test_where_no_smaller_plan_is_left_pictures_are_given_up(tiny_base, photos, tmp_path, monkeypatch):
    sample = {"every": 0, "prompts": ["zorb"], "steps": 1}
    _out_of_memory(monkeypatch, train_module.TrainableModel, "sample", times=99)
    monkeypatch.setattr(OomFallback, "down", _nothing_smaller)
    told = Told()
    train(wish(tiny_base, photos, train={"steps": 1}, sample=sample), tmp_path / "run", told)
    assert "No samples at step 1; training goes on. Nothing is smaller." in told.text


def _nothing_smaller(*_):
    raise DoesNotFit("Nothing is smaller.")


def test_memory_that_never_suffices_ends_in_an_error_and_what_is_saved_stays(
    tiny_base, photos, tmp_path, monkeypatch
):
    train(wish(tiny_base, photos, train={"steps": 1}), tmp_path / "run", Told())
    _short(monkeypatch, at=2, times=99)
    with pytest.raises(DoesNotFit, match="Out of memory"):
        train(wish(tiny_base, photos, train={"steps": 3}), tmp_path / "run", Told())
    assert RunDir(tmp_path / "run").checkpoint_path(1).exists()
