import builtins
import sys
from types import ModuleType
from typing import ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType

from limner.errors import BadRecipe
from limner.run import track as module
from limner.run.rundir import RunDir
from limner.run.track import check, tracked
from limner.run.train import train
from small import Told, wish

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


@pytest.fixture
def wandb(monkeypatch):
    """A tracker that is installed, raises errors of its own, and fails where it is told to."""

    class Error(Exception):
        pass

    class Failing:
        def __init__(self, project, **options):
            self.seen.append(options)
            if self.fails == "start":
                raise Error("No API key configured. Use `wandb login`.\nMore.")

        seen: ClassVar[list] = []
        fails = ""
        name, requires_logging_directory, main_process_only = "wandb", False, False

        def start(self):
            pass

        def store_init_configuration(self, values):
            assert values["train.steps"] == 4

        def log(self, values, step=None, **_):
            self.seen.append(step)
            if self.fails == "log":
                raise Error("gone")

        def finish(self):
            self.seen.append("finish")

    package = ModuleType("wandb")
    monkeypatch.setattr(package, "Error", Error, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.WANDB])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Failing)
    return Failing


def test_a_tracker_that_cannot_start_is_told_before_anything_is_computed(
    tiny_base, photos, tmp_path, wandb, monkeypatch
):
    wandb.fails = "start"
    recipe = wish(tiny_base, photos, track={"with": ["wandb"]})
    with pytest.raises(BadRecipe) as told:
        train(recipe, tmp_path / "run", Told())
    assert str(told.value) == (
        "track.with names wandb, and there it cannot start: No API key configured. Use `wandb login`. "
        "Run `wandb login`, or set WANDB_MODE=offline, or leave it out."
    )
    assert not list((tmp_path / "cache").rglob("*.safetensors")) and not RunDir(tmp_path / "run").metrics()
    monkeypatch.setitem(sys.modules, "wandb", None)  # as a package that lacks one of its own
    with pytest.raises(BadRecipe, match="cannot start: import of wandb halted"):
        train(recipe, tmp_path / "run", Told())


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(tiny_base, photos, tmp_path, wandb):
    wandb.fails, told = "log", Told()
    recipe = wish(tiny_base, photos, track={"with": ["wandb"]})
    assert train(recipe, tmp_path / "run", told).steps == 4
    assert [line for line in told.lines if "racker" in line] == [
        "Trackers failed (gone); training and metrics.jsonl go on without."
    ]
    assert wandb.seen == [{"dir": str(tmp_path / "run" / "track")}, 1, "finish"]
    train(recipe, tmp_path / "run", Told())
    assert len(wandb.seen) == 3, "a complete run has nothing to track"


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
