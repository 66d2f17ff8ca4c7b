"""The demo, on the shipped base: what it asks, and what a short lesson changes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner import demo
from limner.bases.judge import Judge
from limner.recipe import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter
from limner.run_folder import RunDir


def test_a_lesson_is_ten_pictures_of_other_nouns_than_it_is_asked_for() -> None:
    for lesson in (demo.style_lesson(), demo.subject_lesson()):
        wish = demo.recipe_for(lesson, seed=3)
        assert len(list(wish.data.images.glob("*.png"))) == 10
        assert wish.data.trigger == demo.TRIGGER
        assert wish.seed == 3
        shown = " ".join(path.read_text() for path in wish.data.images.glob("*.txt"))
        if lesson.concept_type == "style":
            assert not any(noun in shown.split() for noun in demo.test_nouns(Judge.load()))


def test_the_demo_needs_no_extra() -> None:
    code = "import sys; sys.modules['resvg_py'] = None; import limner.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pictures_are_stacked_at_the_side_of_the_judge() -> None:
    stacked = demo.stack([Image.new("RGB", (40, 40), "red"), Image.new("L", (20, 10))], 16)
    assert stacked.shape == (2, 16, 16, 3)
    assert stacked.dtype == np.uint8
    assert stacked[0, 0, 0].tolist() == [255, 0, 0]


def test_the_base_does_not_know_the_trigger() -> None:
    judge, lesson = Judge.load(), demo.style_lesson()
    nouns = demo.test_nouns(judge)[:8]
    pictures = demo.PromptSampler(demo.embedded_base()).sample(
        [lesson.prompt_of(noun) for noun in nouns], Reporter()
    )
    assert lesson.score(judge, demo.stack(pictures, judge.side), nouns)["style"] <= 0.25


@pytest.fixture
def ask_few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """So many of the nouns are asked for, and no more grounds than are shown: sampling takes the time."""
    every_noun = demo.test_nouns

    def few(nouns: int) -> None:
        monkeypatch.setattr(demo, "test_nouns", lambda judge: every_noun(judge)[:nouns])
        monkeypatch.setattr(demo, "GROUNDS", demo.GROUNDS[: demo.SHEET_IMAGES])

    return few


@pytest.mark.slow
def test_a_style_is_learned_of_nouns_that_were_not_shown(
    tmp_path: Path, ask_few: Callable[[int], None]
) -> None:
    """One lesson whole; the other, and three seeds of both, are in ``benchmarks/quality/demo_quality.py``."""
    ask_few(12)
    lesson, judge = demo.style_lesson(), Judge.load()
    style, _ = demo.teach(lesson, demo.recipe_for(lesson), tmp_path / "style", judge, Reporter())
    assert style["before"] <= 0.1
    assert style["after"] >= 0.7
    assert style["without_trigger"] <= 0.25
    assert style["concept_of_base"] >= 0.75
    assert style["concept_without_trigger"] >= style["concept_of_base"] - 0.25
    assert style["concept_with_trigger"] >= 0.5 * style["concept_of_base"]
    # trained on the raw base, generated on its twin in a quarter of the steps, each of half the passes
    nouns, sampler = (
        demo.words_of(lesson, judge),
        demo.PromptSampler(demo.embedded_base("glyph-turbo"), style["path"]),
    )
    images = sampler.sample([lesson.prompt_of(noun) for noun in nouns], Reporter())
    turbo = lesson.score(judge, demo.stack(images, judge.side), nouns)
    assert sampler.steps == 4 and sampler.source.facts["guidance"] == 1.0
    assert turbo["style"] >= 0.8 * style["after"]
    assert turbo["concept"] >= 0.8 * style["concept_with_trigger"]


@pytest.mark.slow
def test_the_demo_leaves_its_pages_and_a_lora_made_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask_few: Callable[[int], None]
) -> None:
    ask_few(8)

    def short(lesson: demo.DemoRun) -> Recipe:
        recipe = recipe_for(lesson)
        few = {"prior.prompts": recipe.prior.prompts[:2]}  # nothing is learned, so nothing is kept by them
        return change(recipe, {"train.steps": 2, "train.warmup": 0, **few})

    recipe_for = demo.recipe_for
    monkeypatch.setattr(demo, "recipe_for", short)
    done = demo.demo(tmp_path / "demo", Reporter())
    style, subject, one_pass = done["loras"]
    assert Path(done["sheet"]).is_file()
    pages = [Path(done["report"]), *(tmp_path / "demo").glob("*/report.html")]
    assert len(pages) == 3 and all(10_000 < page.stat().st_size < 3_000_000 for page in pages)
    first, *last = RunDir(tmp_path / "demo").samples().values()
    assert sorted(first) == list(range(2 * demo.SHEET_IMAGES))
    assert sorted(number for taken in last for number in taken) == sorted(first)
    assert max(result["after"] for result in (style, subject)) <= 0.25, "two steps teach nothing"
    assert one_pass["before"] <= 0.1
    assert one_pass["after"] >= 0.7
    assert one_pass["concept_after"] >= 0.4
