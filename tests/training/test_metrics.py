import builtins
import sys
from types import ModuleType
from typing import ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType
from safetensors.torch import load_file

from limner.errors import BadCheckpoint, BadRecipe
from limner.lora import file
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import metrics as module
from limner.training.metrics import require_trackers, tracked
from limner.training.model import TrainableModel
from messages import raises
from small import Told, equal, losses, weights, wish

PATIENT = {"steps": 8, "batch": 1, "save_every": 8, "validation_every": 1, "patience": 2, "keep": 1}
MEASURED = {0: 3.0, 1: 2.0, 2: 1.5, 3: 1.0, 4: 1.2, 5: 1.1, 6: 0.9}


@pytest.fixture
def measured(monkeypatch):
    """Validation losses that fall until step 3 and would fall again at step 6, by the number of updates."""
    steps: list[int] = [0]
    true = TrainableModel.publish

    def publish(self, *given):
        steps[0] += bool(given)  # after each step of the optimizer
        true(self, *given)

    monkeypatch.setattr(TrainableModel, "publish", publish)
    monkeypatch.setattr(TrainableModel, "validation_losses", lambda _: [MEASURED[steps[0]]])
    return steps


def test_a_patient_run_ends_early_and_leaves_its_best(tiny_base, photos, tmp_path, measured):
    told, run = Told(), RunDir(tmp_path / "run")
    recipe = wish(tiny_base, photos, train=PATIENT, sample={"every": 0, "prompts": ["zorb"], "steps": 1})
    done = train(recipe, run.path, told)
    assert (done.steps, done.validation_loss, losses(run.path)[-1][0]) == (5, 1.0, 5)
    assert "Early stopping at step 5: 2 evaluations without a better validation loss" in told.text
    assert file.read(run.lora_path).metadata["ss_steps"] == "3" and list(run.samples()) == [0, 3]
    final, best, last = map(load_file, (run.lora_path, run.step_lora_path(3), run.step_lora_path(5)))
    assert equal(final, best) and not equal(final, last)
    assert [step for step, _ in run.checkpoints()] == [5, 3]
    assert (
        "stopped early, of 8" in run.report_path.read_text()
        and "The LoRA is that of step 3" in run.report_path.read_text()
    )
    before = run.lora_path.read_bytes()
    again = Told()
    assert train(recipe, run.path, again).steps == 5 and run.lora_path.read_bytes() == before
    assert "Training" not in again.counts and "raise train.patience or remove it" in again.text
    with raises(BadCheckpoint):
        train(wish(tiny_base, photos, train={**PATIENT, "clip": 0.5}), run.path, Told())


def test_more_patience_goes_on_as_one_run_would(tiny_base, photos, tmp_path, measured):
    train(wish(tiny_base, photos, train=PATIENT), tmp_path / "run", Told())
    more = wish(tiny_base, photos, train={**PATIENT, "patience": 3, "steps": 6})
    train(more, tmp_path / "run", Told())
    measured[0] = 0
    train(more, tmp_path / "whole", Told())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "run", 6), weights(tmp_path / "whole", 6))
    assert file.read(tmp_path / "run" / "lora.safetensors").metadata["ss_steps"] == "6"


def test_images_that_are_trained_on_end_no_run(tiny_base, photos, tmp_path):
    with raises(BadRecipe):
        train(wish(tiny_base, photos, train=PATIENT, data={"validation_count": 0}), tmp_path / "run", Told())


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


def test_of_steps_that_are_computed_twice_tensorboard_shows_the_second(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, track={"with": ["tensorboard"]}, name="zorb")
    for done, steps, loss in ((0, range(1, 6), 1.0), (3, range(4, 7), 2.0)):
        with tracked(recipe, RunDir(tmp_path), start_step=done) as track:
            for step in steps:
                track({"step": step, "loss": loss})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "track" / "zorb"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_only_the_first_process_tracks(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module.distributed, "rank", lambda: 1)
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
            if self.fails:
                raise Error("still gone")

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
    assert wandb.seen[0]["dir"] == str(tmp_path / "run" / "track") and wandb.seen[1:] == [1, "finish"]
    train(recipe, tmp_path / "run", Told())
    assert len(wandb.seen) == 3, "a complete run has nothing to track"


def test_a_run_that_goes_on_is_the_same_to_trackers_and_one_that_begins_is_not(
    tiny_base, photos, tmp_path, wandb
):
    recipe, run = wish(tiny_base, photos, track={"with": ["wandb"]}), RunDir(tmp_path)
    for done, spoil in ((0, None), (0, None), (2, None), (3, None), (4, b""), (5, None), (6, b"\xff")):
        if spoil is not None:
            run.track_id_path.write_bytes(spoil)
        with tracked(recipe, run, start_step=done):
            pass
    given = [each for each in wandb.seen if isinstance(each, dict)]
    assert {each["resume"] for each in given} == {"allow"}
    first, begun, on, further, new, kept, last = [each["id"] for each in given]
    assert begun == on == further and new == kept
    assert len({first, begun, new, last}) == 4, "one that begins, or whose id is lost, is another"


def test_a_training_that_goes_on_tells_trackers(tiny_base, photos, tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(wandb, "store_init_configuration", lambda self, values: None)
    for steps in (2, 4):
        recipe = wish(tiny_base, photos, track={"with": ["wandb"]}, train={"steps": steps})
        train(recipe, tmp_path / "run", Told())
    begun, on = [each["id"] for each in wandb.seen if isinstance(each, dict)]
    assert begun == on and [each for each in wandb.seen if isinstance(each, int)] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_refused(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with raises(BadRecipe):
        require_trackers(["wandb"])
    with (
        raises(BadRecipe),
        tracked(wish(tiny_base, photos, track={"with": ["tensorboard"]}), RunDir(tmp_path)),
    ):
        pass
    assert "wandb" not in sys.modules
