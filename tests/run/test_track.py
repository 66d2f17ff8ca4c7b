import builtins
import sys

import pytest

from limner.errors import BadRecipe
from limner.run import track as module
from limner.run.rundir import RunDir
from limner.run.track import check, tracked
from small import wish

ROW = {"step": 3, "loss": 0.5, "time": 1.0}


def test_without_trackers_nothing_is_loaded_or_written(tiny_base, photos, tmp_path, monkeypatch):
    true = builtins.__import__

    def refuse(name, *more):
        assert not name.startswith("accelerate")
        return true(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with tracked(wish(tiny_base, photos), RunDir(tmp_path / "run")) as track:
        track(ROW)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_row_even_when_the_run_fails(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, track={"with": ["tensorboard"]}, name="zorb")
    with pytest.raises(ZeroDivisionError), tracked(recipe, RunDir(tmp_path)) as track:
        track(ROW)
        track({"step": 4, "loss": 0.25, "held_out": 0.75})
        raise ZeroDivisionError
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "track" / "zorb"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.5), (4, 0.25)]
    assert [event.value for event in events.Scalars("held_out")] == [0.75]
    assert "time" not in events.Tags()["scalars"]


def test_only_the_first_process_tracks(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module.processes, "rank", lambda: 1)
    with tracked(wish(tiny_base, photos, track={"with": ["tensorboard"]}), RunDir(tmp_path)) as track:
        track(ROW)
    assert not list(tmp_path.glob("track*"))


def test_a_tracker_that_is_not_installed_is_refused(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(
        BadRecipe, match='track.with names "wandb", which is not installed. Run `pip install wandb`'
    ):
        check(["wandb"])
    with (
        pytest.raises(BadRecipe, match="tensorboard"),
        tracked(wish(tiny_base, photos, track={"with": ["tensorboard"]}), RunDir(tmp_path)),
    ):
        pass
    assert "wandb" not in sys.modules
