from pathlib import Path

import pytest

from limner.errors import BadUsage
from limner.judging.request import (
    JudgeOptions,
    has_trigger,
    listed,
    options_of,
    request_of,
    triggers_of,
    without_trigger,
)
from limner.recipe import Data, Recipe, Sample
from limner.recipe.toml import dump
from limner.run_folder import RunDir
from messages import raises


@pytest.fixture
def run(tmp_path, photos) -> RunDir:
    run = RunDir(tmp_path / "run")
    for step in (10, 20):
        run.step_lora_path(step).parent.mkdir(parents=True, exist_ok=True)
        run.step_lora_path(step).write_bytes(b"")
    write(run, photos)
    return run


def write(run: RunDir, photos, **keys) -> None:
    prompts = ("[trigger] on a beach", "a plain beach")
    recipe = {"data": Data(images=photos, trigger="sks cat"), "sample": Sample(prompts=prompts, steps=7)}
    run.path.mkdir(exist_ok=True)
    run.metrics_path.write_text("")  # as a run has it
    run.recipe_path.write_text(dump(Recipe(**{**recipe, **keys})))


def test_all_kept_steps_are_judged_by_the_prompts_of_the_recipe(run):
    request = request_of(run.path, JudgeOptions(strengths=(0.5, 1.0), seeds=(3, 4)))
    assert list(request.loras) == [10, 20] and request.grid[0] == (0, 0.0) and len(request.grid) == 5
    assert [line.prompt for line in request.lines] == ["sks cat on a beach"]
    assert [line.prompt for line in request.plain] == ["a plain beach", "on a beach"]
    assert request.texts == ("on a beach",)
    assert request.settings.strengths == (0.0, 0.5, 1.0) and request.settings.seeds == (3, 4)
    assert request.settings.steps == 7 and request.count == 5 * 2 * 3


def test_what_a_person_names_is_taken(run):
    options = JudgeOptions(
        steps=("last", 20), prompts=("SKS CAT!",), leak_prompts=("a dog",), size=(64, 32), seeds=(0,)
    )
    request = request_of(run.path, options)
    assert list(request.loras) == [20] and (request.settings.width, request.settings.height) == (64, 32)
    assert [line.prompt for line in request.lines] == ["SKS CAT!"] and request.texts == ("!",)
    assert [line.prompt for line in request.plain] == ["a dog"]


def test_a_style_on_the_embedded_base_is_judged_by_nouns_that_its_judge_knows(run, photos):
    write(run, photos, concept_type="style")
    request = request_of(run.path, JudgeOptions())
    assert [line.prompt for line in request.lines[:2]] == ["sks cat style cat", "sks cat style car"]
    assert request.texts == ("cat", "car", "apple", "house", "fish", "guitar")
    other = request_of(run.path, JudgeOptions(encoders=("some/clip",)))
    assert [line.prompt for line in other.lines] == ["sks cat on a beach"]


def test_without_a_trigger_there_is_nothing_to_take_out(run, photos):
    write(run, photos, data=Data(images=photos), sample=Sample(prompts=("a hat",)))
    request = request_of(run.path, JudgeOptions())
    assert [line.prompt for line in request.lines] == ["a hat"] == list(request.texts)
    assert request.plain == ()


def test_the_trigger_is_taken_out_with_the_words_that_belong_to_it():
    texts = ("zorb style cat", "a fox in the zorb style, at night", "a fox, ZORB", "zorb", "a zorbing cat")
    shorter = [without_trigger(text, "zorb") for text in texts]
    assert shorter == ["cat", "a fox, at night", "a fox", "", "a zorbing cat"]
    assert [has_trigger(text, "zorb") for text in texts] == [True, True, True, True, False]
    assert has_trigger("소파 위의 zorb가", "zorb") and without_trigger("zorb가 잔다", "zorb") == "잔다"
    assert not has_trigger("x", "") and without_trigger("a, b", "") == "a, b"


def test_each_set_has_its_trigger():
    sets = [{"images": "cats", "trigger": "zorb"}, {"images": "dogs", "trigger": "zorb two"}, {"images": "x"}]
    triggers = triggers_of(Recipe(base="glyph", data={"sets": sets}))
    assert triggers == ("zorb two", "zorb")
    assert without_trigger("zorb two and zorb, in red", *triggers) == "and, in red"
    assert [has_trigger(text, *triggers) for text in ("a zorb", "a cat")] == [True, False]


def test_steps_are_listed_for_people():
    assert listed([5]) == "5" and listed([5, 6, 7]) == "5, 6 and 7"


def test_what_cannot_be_judged_is_told(run, photos, tmp_path):
    with raises(BadUsage):
        request_of(photos, JudgeOptions())
    with raises(BadUsage):
        request_of(run.path, JudgeOptions(steps=(15,)))
    with raises(BadUsage):
        JudgeOptions(strengths=(0.0, 1.0))
    with raises(BadUsage):
        JudgeOptions(seeds=())
    write(run, photos, data=Data(images=photos), sample=Sample())
    with raises(BadUsage):
        request_of(run.path, JudgeOptions())
    write(run, photos, train={"method": "full"})
    with raises(BadUsage):
        request_of(run.path, JudgeOptions())
    bare = RunDir(tmp_path / "bare")
    write(bare, photos)
    with raises(BadUsage):
        request_of(bare.path, JudgeOptions())


def test_keys_of_python_are_the_options_of_the_command_line():
    values = options_of({"steps": "best", "strengths": [1], "prompts": "zorb", "seeds": 2, "size": 64})
    assert values == JudgeOptions(
        steps=("best",), strengths=(1,), prompts=("zorb",), seeds=(0, 1), size=(64, 64)
    )
    assert options_of({"steps": [2, 4], "seeds": [7], "size": (64, 32), "prompt_file": "p.txt"}) == (
        JudgeOptions(steps=(2, 4), seeds=(7,), size=(64, 32), prompt_file=Path("p.txt"))
    )
    assert options_of({}) == JudgeOptions()
    with raises(BadUsage):
        options_of({"strength": 1.0})  # pyright: ignore[reportArgumentType]
