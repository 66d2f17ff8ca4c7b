"""A run as other programs see it: its events, leaving it between two steps, and stopping it from outside."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from huggingface_hub import constants

from limner import runs
from limner.errors import BadRecipe, LimnerError, Stopped
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
from limner.lora import file
from limner.recipe import Recipe
from limner.recipe.toml import dump
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.runs import running, train
from limner.status import Requests, read_status
from limner.training.interrupt import Interrupt
from messages import raises
from small import equal, losses, weights, wish
from waiting import LONGEST

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
                assert event.lora == run.step_lora_path(event.step) and event.lora.is_file()
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
    assert stepped.wait(LONGEST)
    wanted.set()
    thread.join(LONGEST)
    assert [type(end) for end in ends] == [Stopped]
    assert RunDir(tmp_path / "run").checkpoints()


def test_each_checkpoint_brings_a_lora_and_a_report(tiny_base, photos, tmp_path):
    """While it trains: the newest LoRA, one of each step, and a page that shows how far it is."""
    run = RunDir(tmp_path / "run")
    pages, newest = {}, {}

    def hear(event):
        if isinstance(event, Saved):
            newest[event.step] = (
                file.read(run.lora_path).metadata["ss_steps"] if run.lora_path.exists() else ""
            )
        elif isinstance(event, StepDone) and event.step > 1:
            pages[event.step] = run.report_path.read_text()

    train(wish(tiny_base, photos, train={"save_every": 1}), run.path, Reporter(hear))
    assert newest == {1: "1", 2: "2", 3: "3", 4: "3"}  # the last one becomes the newest at the end
    assert "step-000001.safetensors" in pages[2] and "step-000003.safetensors" not in pages[2]
    assert [step for step, _ in run.step_loras()] == [4, 3, 2, 1]
    first, last = (file.read(run.step_lora_path(step)).components for step in (1, 4))
    final = file.read(run.lora_path).components
    for name, factors in final["transformer"].items():
        assert equal({"": factors.up}, {"": last["transformer"][name].up})
    assert any(
        not equal({"": first["transformer"][name].up}, {"": f.up}) for name, f in final["transformer"].items()
    )


def test_a_run_that_goes_on_has_the_loras_of_its_own_steps(tiny_base, photos, tmp_path):
    """The one that a kill kept from being written is written; those of steps that are lost go."""
    recipe = wish(tiny_base, photos, train={"save_every": 1})
    train(recipe, tmp_path / "whole", Reporter())
    train(recipe, tmp_path / "run", Reporter())
    run, whole = RunDir(tmp_path / "run"), RunDir(tmp_path / "whole")
    for step in (3, 4):
        run.checkpoint_path(step).unlink()
    run.step_lora_path(2).unlink()
    states = []

    def hear(event):
        if isinstance(event, StepDone):
            states.append([step for step, _ in run.step_loras()])

    train(recipe, run.path, Reporter(hear))
    assert states[0] == [2, 1]
    for step in (1, 2, 3, 4):
        ours, theirs = (file.read(item.step_lora_path(step)).components for item in (run, whole))
        for name, factors in theirs["transformer"].items():
            assert equal({"": factors.up}, {"": ours["transformer"][name].up})


def test_a_report_that_cannot_be_written_ends_no_training(tiny_base, photos, tmp_path, monkeypatch):
    heard, true = [], runs.write_report

    def refused(run):
        if not any(isinstance(event, StepDone) and event.step == 4 for event in heard):
            raise OSError(errno.EACCES, "Permission denied", "report.html")
        return true(run)

    monkeypatch.setattr(runs, "write_report", refused)
    done = train(wish(tiny_base, photos), tmp_path / "run", Reporter(heard.append))
    assert done.report.is_file()
    lines = [event.text for event in heard if isinstance(event, Message) and "No report" in event.text]
    assert len(lines) == 1 and lines[0].startswith("No report at step 2 (")


def test_other_programs_ask_a_run_by_files_and_it_answers_between_two_steps(tiny_base, photos, tmp_path):
    """Saved, exported and sampled as asked, and stopped; going on changes no bit."""
    recipe = wish(tiny_base, photos, train={"steps": 6, "save_every": 6}, **SHOWN)
    run, heard = RunDir(tmp_path / "run"), []
    kinds = {1: "save", 2: "export", 3: "sample", 4: "stop"}

    def hear(event):
        heard.append(event)
        if isinstance(event, StepDone) and event.step in kinds:
            Requests(run).send(kinds[event.step])

    with pytest.raises(Stopped):
        train(recipe, run.path, Reporter(hear))
    assert [step for step, _ in run.checkpoints()] == [4, 1]
    assert [step for step, _ in run.step_loras()] == [4, 2, 1]
    assert 3 in run.samples() and Requests(run).pending() == []
    lines = [
        event.text for event in heard if isinstance(event, Message) and event.text.startswith("As asked")
    ]
    assert lines == [f"As asked: {kind}, at step {step}." for step, kind in list(kinds.items())[:3]]
    assert "Stopped at step 4 of 6" in run.log_path.read_text()
    train(recipe, run.path, Reporter())
    train(recipe, tmp_path / "whole", Reporter())
    assert equal(weights(run.path, 6), weights(tmp_path / "whole", 6))


def test_what_was_asked_of_an_earlier_run_is_forgotten(tiny_base, photos, tmp_path):
    run = RunDir(tmp_path / "run")
    run.ask_path.mkdir(parents=True)
    (run.ask_path / "stop").write_text("")
    assert train(wish(tiny_base, photos), run.path, Reporter()).steps == 4


HUNG_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup leaves it ignored
os.login_tty(0)
os.execv(sys.executable, [sys.executable, "-m", "limner", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has consoles, tested beside the handler")
def test_a_closed_terminal_saves_and_ends_a_run(tiny_base, photos, tmp_path):
    run = RunDir(tmp_path / "run")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump(wish(tiny_base, photos, train={"steps": 100_000, "save_every": 100_000})))
    primary, secondary = os.openpty()
    command = [sys.executable, "-c", HUNG_UP, "train", str(recipe), "--out", str(run.path)]
    process = subprocess.Popen(command, stdin=secondary, stdout=secondary, stderr=secondary)
    os.close(secondary)
    reader = threading.Thread(target=_drain, args=(primary,), daemon=True)
    reader.start()
    while not any(row["step"] > 2 for row in run.metrics()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)  # as the shell does; then the terminal goes
    assert process.wait(LONGEST) == 1
    (step, _), *_ = run.checkpoints()
    assert step > 2 and run.step_lora_path(step).is_file()
    status = read_status(run.path)
    assert status is not None and status.state == "stopped"


def _drain(handle):
    with suppress(OSError):
        while os.read(handle, 4096):
            pass


@pytest.mark.parametrize(
    ("base", "sections"),
    [
        ("sdxl", {"train": {"objective": "distill"}}),
        ("z-image", {"train": {"method": "inversion"}, "lora": {}, "data": {"trigger": "<zot>"}}),
        ("z-image", {"limits": {"compute_dtype": "fp16"}}),
        ("flux-dev", {"lora": {"targets": "locon"}}),
        ("flux-dev", {"train": {"optimizer": "torch.optim.Nope"}}),
    ],
)
def test_what_a_base_cannot_do_is_told_before_it_is_fetched(base, sections, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("limner.assembly.resolve.locate_base", None)
    data = {"images": str(photos), **sections.get("data", {})}
    with raises(BadRecipe):
        runs.train(Recipe(base=base, **{**sections, "data": data}), tmp_path / "run", Reporter())
