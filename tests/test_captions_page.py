"""The before and after of the page on captions is what two runs of the command did."""

import pytest

import captions_page
from limner.captions.spec import STYLES, CaptionSpec, strip_trigger
from limner.captions.validators import find_fault

WISHES = {
    "mascot": CaptionSpec(trigger=captions_page.TRIGGER),
    "blueprint": CaptionSpec(concept_type="style", trigger=captions_page.TRIGGER, style=STYLES["phrases"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = {}
    for name in captions_page.RUNS:
        folder = tmp_path_factory.mktemp("page") / name
        folder.mkdir()
        found[name] = captions_page.run(name, folder)
    return found


def test_the_page_is_what_the_runs_did(runs):
    text = captions_page.PAGE.read_text(encoding="utf-8")
    for name, done in runs.items():
        lines = "\n".join(captions_page.section(name, done))
        assert lines in text, f"run `python tools/captions_page.py`; {name} has changed"


@pytest.mark.parametrize("name", list(WISHES))
def test_every_picture_of_the_demo_has_a_caption_without_a_flaw_in_the_end(runs, name):
    wish, done = WISHES[name], runs[name]
    assert len(done.texts) == 10
    for text in done.texts.values():
        assert find_fault(strip_trigger(text, wish), wish) == ""
        assert text.count(wish.trigger) == 1
    assert all(row["pass"] == "set" and row["written"] for row in done.rows.values())
    assert len(done.rows) == 10 - len(done.reader.script["yours"])


def test_the_runs_show_what_is_asked_again_and_that_yours_stays(runs):
    asked = [len(said) for done in runs.values() for said in done.reader.answers.values()]
    assert sorted(set(asked)) == [1, 2]
    assert runs["mascot"].reader.complaints == ["caption 6: it says 'wall' where 'background' was agreed on"]
    (yours,) = runs["mascot"].reader.script["yours"].items()
    assert runs["mascot"].texts[yours[0]] == yours[1]
