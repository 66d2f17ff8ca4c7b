"""Plan and recipe: the form is the file, and the plan follows it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.form import Form
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.recipes import RecipeFile, new_recipe
from limner.studio.verbs import VerbFailed
from limner.studio.workspace import Workspace
from studio_scenes import press

Draw = Callable[..., AppTest]


PLAN = {
    "fits": True,
    "seconds_per_step": 0.5,
    "seconds": {"all": 75.0},
    "reserved_bytes": 2**30,
    "gate": None,
    "causes": {"train": {"weights": 2**29, "activations": 2**29, "context": 0}},
    "alternatives": [
        {"what": "batch 16 (--batch 16)", "fits": True, "change": -0.25, "batch": 16, "reserved_bytes": 2**30}
    ],
}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What plans were asked for; the journey in a browser asks the real verb."""
    from limner.studio.pages import plan

    plan._plans.clear()
    questions: list[list[str]] = []

    def answer(arguments: list[str], **_: object) -> dict[str, object]:
        questions.append([str(argument) for argument in arguments])
        return PLAN

    monkeypatch.setattr("limner.studio.pages.plan.ask", answer)
    return questions


def test_the_plan_follows_the_questions(
    draw: Draw, workspace: Workspace, cats: Path, planned: list[list[str]]
) -> None:
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("plan", recipe="cat")
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {"Per step": "0.5 s", "In all": "1 min 15 s", "Memory": "1.1 GB"}
    assert planned == [["plan", str(recipe.path)]]
    rank = next(box for box in app.number_input if box.label.startswith("LoRA rank"))
    rank.set_value(5).run()
    assert recipe.load().lora.rank == 5
    trigger = next(box for box in app.text_input if box.label == "Trigger word")
    trigger.set_value("zxq").run()
    assert recipe.load().data.trigger == "zxq" and recipe.load().lora.rank == 5
    next(button for button in app.button if button.label == "Take it").click().run()
    assert recipe.load().train.batch == 16
    assert len(planned) == 4  # once for each content of the file


def test_what_a_plan_offers_is_a_button(
    draw: Draw, workspace: Workspace, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.studio.pages import plan

    misfit = {
        "fits": False,
        "why_not": "It takes 20 GB.",
        "would_fit": ["--resolution 512", "a card of 24 GB"],
    }
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "limner.studio.pages.plan.ask",
        lambda words, **_: calls.append([str(word) for word in words]) or misfit,
    )
    plan._plans.clear()
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    press(draw("plan", recipe="cat"), "Take it")
    assert recipe.load().data.resolution == 512
    app = draw("plan", recipe="cat")
    press(app, "Plan for it")
    assert calls[-1][2:] == ["--vram", "24GB"]
    next(box for box in app.number_input if box.label.startswith("US dollars")).set_value(0.5).run()
    assert calls[-1][2:] == ["--vram", "24GB", "--price=0.5"]
    plan._plans.clear()


def test_a_plan_that_cannot_be_made_is_told_in_its_place(
    draw: Draw, workspace: Workspace, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.studio.pages import plan

    def refusal(*_: object, tick: Callable[[], object], **__: object) -> None:
        tick()
        raise VerbFailed("cat holds a run on other images.")

    monkeypatch.setattr("limner.studio.pages.plan.ask", refusal)
    plan._plans.clear()
    new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("plan", recipe="cat")
    assert [error.value for error in app.error] == [r"cat holds a run on other images\."]
    assert "Planning ..." not in [info.value for info in app.info]


@pytest.mark.usefixtures("planned")
def test_all_settings_are_there_and_a_wrong_one_is_told(draw: Draw, workspace: Workspace, cats: Path) -> None:
    recipe = new_recipe(workspace, cats, "cat", {"base": "glyph"})
    app = draw("plan", recipe="cat")
    app.toggle[0].set_value(True).run()
    rate = next(box for box in app.text_input if box.label == "warmup")
    rate.set_value("-1").run()
    assert any("train" in error.value and "warmup" in error.value for error in app.error)
    assert recipe.load().train.warmup != -1
    assert len(app.text_input) > 60


@pytest.mark.usefixtures("planned")
def test_an_import_says_what_became_of_each_line(draw: Draw, workspace: Workspace, cats: Path) -> None:
    new_recipe(workspace, cats, "cat", {"base": "glyph"})
    rows = [{"key": "network_dim", "value": 16, "outcome": "kept"}]
    answer = {"trainer": "sd-scripts", "counts": {"kept": 1}, "rows": rows}
    Form(workspace, "plan").put("import-answer-cat", answer)
    app = draw("plan", recipe="cat")
    assert "sd\\-scripts\\: 1 kept" in [element.value for element in app.markdown]
    assert list(app.dataframe[0].value["key"]) == ["network_dim"]


@pytest.mark.usefixtures("planned")
def test_what_the_images_are_for_goes_with_them(draw: Draw, workspace: Workspace, cats: Path) -> None:
    ImageSet(workspace, cats).keep(SetSettings("zorbix", "style", "glyph", 128))
    press(draw("plan", images="images/cats"), "Write the recipe")
    (file,) = workspace.recipe_files()
    recipe = RecipeFile(file, workspace).load()
    assert (recipe.data.trigger, recipe.concept_type, recipe.base) == ("zorbix", "style", "glyph")
    assert recipe.data.resolution == 128
