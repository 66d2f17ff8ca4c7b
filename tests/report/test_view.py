import json

import pytest
from PIL import Image

import limner
from limner.events import Done, PlanMade, ProgressMade, StepDone, Validated
from limner.report.view import COLUMNS
from limner.run_folder import RunDir
from limner.status import StatusFile


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def sample(run, step, *prompts):
    for index in prompts:
        path = run.sample_path(step, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (step % 256, 99, 0)).save(path)


def test_a_run_that_is_not_there_has_not_begun(tmp_path):
    html = limner.view(tmp_path / "none")._repr_html_()
    assert "not begun" in html and "<svg" not in html and "<img" not in html


def test_it_shows_how_far_a_run_is(run):
    run.write_prompts(["a <b>cat</b>", "a dog"])
    sample(run, 0, 0, 1)
    sample(run, 20, 0)
    for step in range(1, 4):
        run.log({"step": step, "loss": 1 / step, "held_out": 0.5})
    with StatusFile(run, interval=60) as status:
        status.hear(PlanMade(bytes=2_000_000_000, seconds_per_step=1.0, seconds=9.0, plan={}))
        status.hear(ProgressMade(label="Training", done=3, total=9, seconds=6.0))
        numbers = {"norm": 1.0, "learning_rate": 1e-4, "seconds": 0.25, "bytes": 1_500_000_000}
        status.hear(StepDone(step=3, steps=9, loss=0.3125, **numbers))
        status.hear(Validated(step=3, loss=0.5))
        status._write()
        html = limner.view(run.path).html
    for words in ("Training", "3 of 9", "loss 0.3125", "validation loss 0.5000", "0.25 s/step", "12 s left"):
        assert words in html
    assert "most memory 1.5 GB, 2.0 GB planned" in html
    assert html.count("<img") == 3 and html.count("no image") == 1 and html.count("<svg") == 2
    assert "a &lt;b&gt;cat" in html and "<b>cat" not in html
    end = {"steps": 3, "seconds": 1.0, "loss": 0.5, "validation_loss": None}
    done = Done(path=run.path, lora=None, model=None, report=run.report_path, **end)
    assert '<p class="facts">done' in limner.view(done).html


def test_of_many_samples_it_shows_the_base_and_the_newest(run):
    run.write_prompts(["a cat"])
    for step in range(0, 200, 20):
        sample(run, step, 0)
    html = limner.view(run.path).html
    assert html.count("<img") == COLUMNS
    assert "base" in html and "step 180" in html and "step 80<" not in html


@pytest.mark.parametrize("text", ["{", "[" * 10**5, "7", json.dumps({"a": 1})])
def test_prompts_that_cannot_be_read_cost_no_look(run, text):
    sample(run, 0, 0)
    run.prompts_path.write_text(text)
    assert limner.view(run.path).html.count("<img") == 1


def test_its_rules_touch_nothing_around_it(run):
    """Notebooks are one page: every rule stands within the class of this part."""
    style = limner.view(run.path).html.partition("<style>")[2].partition("</style>")[0]
    depth, outside = 0, ""
    for letter in style:
        depth += (letter == "{") - (letter == "}")
        outside += letter if depth == 0 else ""
    rules = [rule.strip() for rule in outside.split("}") if rule.strip()]
    assert depth == 0 and rules == [".limner", "@media (prefers-color-scheme: dark)"]
