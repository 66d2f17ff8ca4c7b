import dataclasses
import json
import subprocess
import sys
import threading
import typing
from contextlib import closing
from pathlib import Path

import pytest

import limner
from limner.errors import BadRecipe, BadUsage, LimnerError, Stopped
from limner.events import Done, Message, PlanMade, ProgressMade, Saved, StepDone
from limner.recipe import Recipe, toml
from limner.run_folder import RunDir
from small import equal, losses, weights
from waiting import LONGEST

TINY = {
    "data.resolution": None,
    "data.validation_count": 1,
    "sample.every": -1,
    "train.save_every": 2,
    "lora.rank": 2,
}
STEPS: typing.Any = {"steps": 4, "batch": 2, "lr": 1e-2}


def alone(code):
    """Run a line of Python in a process of its own; what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_quick_and_loads_no_large_library():
    large = ("torch", "numpy", "pydantic", "PIL", "diffusers", "transformers", "typer")
    code = f"import sys, limner; print(sorted(set({large!r}) & set(sys.modules)))"
    assert alone(code).strip() == "[]"
    code = "import time; t = time.process_time(); import limner; print(time.process_time() - t)"
    assert min(float(alone(code)) for _ in range(3)) < 0.1


def test_its_functions_load_no_torch_before_they_are_called():
    code = "import sys, limner; [getattr(limner, name) for name in dir(limner) if name != 'lora']; "
    assert alone(code + "print('torch' in sys.modules)").strip() == "False"


def test_the_front_door_names_what_it_has():
    assert set(limner.__all__) <= set(dir(limner))
    for name in limner.__all__:
        assert getattr(limner, name) is not None
    with pytest.raises(AttributeError, match="'limner' has no attribute 'trian'"):
        limner.trian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_no_module_of_the_package_takes_the_place_of_a_function():
    functions = [name for name in limner.__all__ if callable(getattr(limner, name))]
    modules = {path.stem for path in Path(limner.__file__).parent.iterdir()}
    assert functions and not modules & set(functions)
    verbs = {path.stem for path in Path(limner.lora.__file__).parent.iterdir()}
    assert not verbs & set(limner.lora.__all__)


def test_types_are_for_users_too():
    assert Path(limner.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize(
    "name", ["train", "train_iter", "cache", "plan", "check", "caption", "generate", "preset"]
)
def test_every_argument_is_explained_and_typed(name):
    function = getattr(limner, name)
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]
    assert set(names) <= set(function.__annotations__)
    for argument in names:
        assert f"        {argument}: " in function.__doc__, argument


@pytest.fixture
def run(tiny_base, photos, tmp_path, monkeypatch):
    """Arguments for the front door, in an empty folder to work in."""
    monkeypatch.chdir(tmp_path)

    def arguments(**more):
        return {"target": photos, "base": str(tiny_base), "settings": TINY, **STEPS, **more}

    return arguments


def test_a_run_is_trained_from_a_folder(run, photos):
    heard = []
    done = limner.train(**run(on_event=heard.append))
    assert done == heard[-1] and done.path == Path("runs") / photos.name
    assert done.lora is not None and done.lora.is_file() and done.report.is_file()
    recipe = toml.load(RunDir(done.path).recipe_path)
    assert (recipe.train.steps, recipe.train.learning_rate, recipe.lora.rank) == (4, 1e-2, 2)


def test_a_folder_a_recipe_a_file_and_a_run_train_the_same(run, tmp_path):
    first = limner.train(**run(out="first"))
    file = RunDir(first.path).recipe_path
    recipe = toml.load(file)
    by_recipe = limner.train(recipe, out=tmp_path / "second")
    copy = tmp_path / "mine.toml"
    copy.write_text(file.read_text())
    by_file = limner.train(str(copy))
    assert by_file.path == Path("runs") / "mine"
    again = limner.train(first.path)
    assert again.path == first.path
    trained = weights(first.path, 4)
    assert equal(trained, weights(by_recipe.path, 4)) and equal(trained, weights(by_file.path, 4))


def test_keys_may_be_spelled_as_other_trainers_do():
    recipe = limner.preset("style", settings={"network_dim": 3, "max_train_steps": 7})
    assert (recipe.concept_type, recipe.lora.rank, recipe.train.steps) == ("style", 3, 7)
    with pytest.raises(BadRecipe):
        limner.preset("style", settings={"train.stpes": 7})


@pytest.mark.parametrize("target", ["nowhere", "nowhere/recipe.toml"])
def test_what_cannot_be_is_told_at_once(run, target):
    for function in (limner.train, limner.train_iter, limner.cache, limner.check, limner.plan):
        with pytest.raises(BadUsage, match=f"There is no {target}"):
            function(target)


def test_a_run_is_an_iterator_of_events(run):
    events = list(limner.train_iter(**run()))
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3, 4]
    assert isinstance(events[-1], Done)
    first = next(number for number, event in enumerate(events) if isinstance(event, StepDone))
    assert any(isinstance(event, PlanMade) for event in events[:first])


def test_leaving_the_loop_saves_and_the_same_call_goes_on(run):
    whole = limner.train(**run(out="whole"))
    saves = []
    with closing(limner.train_iter(**run(out="left"))) as events:
        for event in events:
            if isinstance(event, StepDone) and event.step == 3:
                break
    assert RunDir(Path("left")).checkpoints()[0][0] == 3
    saves += [event.step for event in limner.train_iter(**run(out="left")) if isinstance(event, Saved)]
    assert saves == [4]
    assert equal(weights(Path("left"), 4), weights(whole.path, 4))
    assert losses(Path("left")) == losses(whole.path)


def test_an_iterator_gives_what_happened_before_an_error_and_then_the_error(run):
    stop = threading.Event()
    heard = []
    with pytest.raises(Stopped, match="Stopped at step 1 of 4"):
        for event in limner.train_iter(**run(stop=stop)):
            heard.append(event)
            if isinstance(event, StepDone) and event.step == 1:
                stop.set()
    assert isinstance(heard[-1], Saved | ProgressMade)
    assert [event.step for event in heard if isinstance(event, Saved)] == [1]


def test_between_two_events_signals_are_the_callers(run):
    import signal

    before = signal.getsignal(signal.SIGINT)
    for _ in limner.train_iter(**run()):
        assert signal.getsignal(signal.SIGINT) == before


def test_a_function_stops_as_an_event_does(run):
    with pytest.raises(Stopped):
        limner.cache(**run(stop=lambda: True))
    assert limner.cache(**run()).computed > 0


def test_one_thread_plans_while_another_trains_and_neither_notices(run, tiny_base, photos):
    """Equal to the bit: the plan, and every weight that was trained meanwhile."""
    alone = limner.train(**run(out="alone", steps=12))
    keys = {"base": str(tiny_base), "settings": TINY, "card": "RTX 4070", "steps": 4}
    plain = limner.plan(photos, **keys).plain()
    started, ends, plans = threading.Event(), [], []

    def hear(event):
        if isinstance(event, StepDone):
            started.set()

    def work():
        try:
            ends.append(limner.train(**run(out="beside", steps=12, on_event=hear)))
        except LimnerError as error:
            ends.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(LONGEST)
    for rank in range(3, 6):  # profiles that no run has made before: each is traced
        plans.append(limner.plan(photos, **{**keys, "settings": {**TINY, "lora.rank": rank}}))
    thread.join(LONGEST)
    assert [type(end) for end in ends] == [Done], ends
    assert equal(weights(Path("beside"), 12), weights(alone.path, 12))
    assert [row[:2] for row in losses(Path("beside"))] == [row[:2] for row in losses(alone.path)]
    assert all(made.fits for made in plans)
    assert limner.plan(photos, **keys).plain() == plain


def test_a_plan_needs_no_folder():
    planned = limner.plan(base="glyph", card="RTX 4070")
    assert planned.fits and planned.counts.images_unknown
    assert json.dumps(planned.plain())


def test_images_are_generated_from_a_run_its_folder_and_its_file(run, tmp_path):
    done = limner.train(**run(trigger="zorb"))
    sizes: typing.Any = {"steps": 1, "width": 16, "height": 16}
    (image,) = limner.generate(done, "zorb on a hill", strength=0.5, **sizes)
    assert image.is_file() and image.parent == done.path / "pictures"
    assert done.lora is not None
    both = limner.generate(done.lora, ["a", "b"], base=str(run()["base"]), out=tmp_path / "other", **sizes)
    assert [path.parent for path in both] == [tmp_path / "other"] * 2
    own = limner.generate(done.path, out=tmp_path / "own", **sizes)
    assert own and all(path.is_file() for path in own)


def test_a_folder_is_checked(run):
    arguments = {key: run()[key] for key in ("target", "base", "settings")}
    heard = []
    found = limner.check(**arguments, on_event=heard.append, out="page")
    assert found.page == Path("page") / "check.html" and found.page.is_file()
    assert any(isinstance(event, ProgressMade) for event in heard)


def test_captions_are_asked_for_as_on_the_command_line(photos):
    heard = []
    for text in photos.glob("*.txt"):
        text.unlink()
    told = limner.caption(photos, "ollama", model="m", dry_run=True, trigger="zorb", on_event=heard.append)
    assert told.remaining == told.images > 0 and any(isinstance(event, Message) for event in heard)
    with pytest.raises(BadUsage, match="caption takes no tigger. It takes model, trigger"):
        limner.caption(photos, "ollama", tigger="zorb")  # pyright: ignore[reportCallIssue]
    with pytest.raises(BadUsage):
        limner.caption(photos, "ollama", style="verse")


def test_the_result_of_a_run_says_where_everything_is():
    assert [field.name for field in dataclasses.fields(Done)] == [
        *("path", "lora", "model", "embedding", "report", "steps", "seconds", "loss", "validation_loss"),
    ]
    assert isinstance(limner.preset(), Recipe)
