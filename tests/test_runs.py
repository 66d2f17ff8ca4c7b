"""A run as other programs see it: its events, leaving it between two steps, and stopping it from outside."""

import threading

import pytest

from limner.errors import LimnerError, Stopped
from limner.events import (
    CacheFilled,
    Done,
    Message,
    PlanMade,
    ProgressMade,
    Sampled,
    Saved,
    StepDone,
    Validated,
)
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import running, train
from limner.status import read_status
from limner.training.interrupt import Interrupt
from small import equal, losses, weights, wish

SHOWN = {"sample": {"every": 2, "prompts": ["zorb"], "steps": 1}}


def events_of(recipe, out):
    heard = []
    done = train(recipe, out, Reporter(heard.append))
    return heard, done


def figures(heard):
    return [event for event in heard if not isinstance(event, Message | ProgressMade)]


def test_a_run_tells_what_happened_in_order(tiny_base, photos, tmp_path):
    heard, done = events_of(wish(tiny_base, photos, **SHOWN), tmp_path / "run")
    kinds = [type(event) for event in figures(heard)]
    assert kinds == [
        *(PlanMade, CacheFilled, Validated, Sampled),
        *(StepDone, StepDone, Validated, Saved, Sampled),
        *(StepDone, StepDone, Validated, Saved, Sampled),
        Done,
    ]
    assert heard[-1] == done and done.path == tmp_path / "run"


def test_events_say_what_the_run_folder_holds(tiny_base, photos, tmp_path):
    heard, done = events_of(wish(tiny_base, photos, **SHOWN), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    rows = {row["step"]: row for row in run.metrics()}
    for event in figures(heard):
        match event:
            case PlanMade():
                assert event.plan == run.read(run.plan_path)["plan"]
                assert event.seconds_per_step > 0 and event.seconds > 0 and event.bytes > 0
            case CacheFilled():
                assert event.computed == event.entries > 0 == event.reused
            case StepDone():
                row = rows[event.step]
                assert (event.loss, event.norm, event.seconds) == (row["loss"], row["norm"], row["seconds"])
                assert (event.learning_rate, event.bytes) == (row["learning_rate"], row["bytes"])
                assert event.steps == 4
            case Validated():
                assert event.loss == rows[event.step]["held_out"]
            case Saved():
                assert event.path == run.checkpoint_path(event.step)
            case Sampled():
                assert list(event.paths) == [run.sample_path(event.step, 0)] and event.paths[0].is_file()
            case Done():
                assert event.lora == run.lora_path and event.lora.is_file()
                assert event.validation_loss == rows[4]["held_out"]


def test_a_run_says_in_its_folder_what_it_does_and_how_it_ended(tiny_base, photos, tmp_path):
    recipe, states = wish(tiny_base, photos), []

    def hear(event):
        if isinstance(event, StepDone):
            states.append(read_status(tmp_path / "run").state)

    train(recipe, tmp_path / "run", Reporter(hear))
    ended = read_status(tmp_path / "run")
    assert states == ["running"] * 4 and (ended.state, ended.step, ended.saved_step) == ("done", 4, 4)
    longer = wish(tiny_base, photos, train={"steps": 6})
    with pytest.raises(Stopped):
        train(longer, tmp_path / "run", Reporter(hear, lambda: len(states) == 5))
    assert read_status(tmp_path / "run").state == "stopped"


def test_a_run_that_is_complete_says_so(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos)
    _, first = events_of(recipe, tmp_path / "run")
    heard, again = events_of(recipe, tmp_path / "run")
    assert [type(event) for event in figures(heard)] == [PlanMade, CacheFilled, Done]
    assert (again.steps, again.loss, again.lora) == (first.steps, first.loss, first.lora)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_leaving_a_run_saves_it_and_going_on_changes_no_bit(tiny_base, photos, tmp_path, left):
    recipe = wish(tiny_base, photos, train={"ema": 0.9})
    train(recipe, tmp_path / "whole", Reporter())
    heard = []
    with Interrupt() as stop:
        run = running(recipe, tmp_path / "run", Reporter(heard.append), stop)
        for _ in run:
            if any(isinstance(event, StepDone) and event.step == left for event in heard):
                break
        run.close()
    saves = [event.step for event in heard if isinstance(event, Saved)]
    assert saves[-1] == left and len(saves) == len(set(saves))
    train(recipe, tmp_path / "run", Reporter())
    assert equal(weights(tmp_path / "run", 4), weights(tmp_path / "whole", 4))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_run_that_was_left_lets_others_have_its_folder(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos)
    with Interrupt() as stop:
        run = running(recipe, tmp_path / "run", Reporter(), stop)
        next(run)
        run.close()
    assert train(recipe, tmp_path / "run", Reporter()).steps == 4


@pytest.mark.parametrize("step", [1, 4])
def test_a_stop_from_outside_saves_and_going_on_changes_no_bit(tiny_base, photos, tmp_path, step):
    recipe = wish(tiny_base, photos)
    train(recipe, tmp_path / "whole", Reporter())
    wanted = threading.Event()

    def hear(event):
        if isinstance(event, StepDone) and event.step == step:
            wanted.set()

    with pytest.raises(Stopped, match=rf"Stopped at step {step} of 4; saved. Go on with: limner train"):
        train(recipe, tmp_path / "run", Reporter(hear, wanted.is_set))
    assert RunDir(tmp_path / "run").checkpoints()[0][0] == step
    train(recipe, tmp_path / "run", Reporter())
    assert equal(weights(tmp_path / "run", 4), weights(tmp_path / "whole", 4))


def test_a_stop_while_the_cache_is_filled_keeps_what_was_computed(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos)
    wanted, heard = threading.Event(), []

    def hear(event):
        heard.append(event)
        if isinstance(event, ProgressMade) and event.label == "Caching" and event.done == 3:
            wanted.set()

    with pytest.raises(Stopped, match="What was finished is kept"):
        train(recipe, tmp_path / "run", Reporter(hear, wanted.is_set))
    assert not any(isinstance(event, StepDone) for event in heard)
    heard, _ = events_of(recipe, tmp_path / "run")
    filled = next(event for event in heard if isinstance(event, CacheFilled))
    assert filled.reused >= 3


def test_in_a_thread_a_run_is_stopped_without_signals(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, train={"steps": 50})
    wanted, stepped, ends = threading.Event(), threading.Event(), []

    def hear(event):
        if isinstance(event, StepDone):
            stepped.set()

    def work():
        try:
            train(recipe, tmp_path / "run", Reporter(hear, wanted.is_set))
        except LimnerError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stepped.wait(300)
    wanted.set()
    thread.join(300)
    assert [type(end) for end in ends] == [Stopped]
    assert RunDir(tmp_path / "run").checkpoints()
