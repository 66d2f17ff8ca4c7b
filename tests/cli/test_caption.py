import json
import shutil
from pathlib import Path

import pytest

from limner.errors import BadProvider
from scribe import Status, answers, captions, serving

GOOD = captions("a red square")


@pytest.fixture
def scribe(monkeypatch):
    with serving(answers(GOOD)) as server:
        yield server


def flags(scribe):
    return ("--with", "openai", "--url", f"{scribe.url}/v1", "--no-consistency")


def test_captions_are_written_and_summed_up(limner, photos, scribe):
    told = limner("caption", photos, *flags(scribe))
    assert told.status == 0
    assert "Captions: 3 written, of 3 images" in told.out
    assert "300 tokens read, 60 written" in told.out
    assert f"Next:     limner caption {photos} --review" in told.out
    assert "this machine (scribe-1)" in told.err
    assert (photos / "0.txt").read_text() == "a red square\n"


def test_one_json_object(limner, photos, scribe):
    told = limner("caption", photos, *flags(scribe), "--json", "--review")
    value = json.loads(told.out)
    assert (value["new_captions"], value["failures"], value["table"]) == (3, [], str(photos / "captions.tsv"))


def test_images_without_captions_are_status_1(limner, photos, scribe):
    scribe.script = answers(
        captions("I'm sorry, no."), captions("I'm sorry, no."), captions("I'm sorry, no."), GOOD
    )
    told = limner("caption", photos, *flags(scribe), "--concurrency", "1")
    assert told.status == 1
    assert "2 written, 1 without" in told.out
    assert "Without:  0.png: no usable caption in 3 answers" in told.out


def test_the_table_goes_out_and_comes_back(limner, photos, scribe):
    limner("caption", photos, *flags(scribe))
    assert f"Edit {photos / 'captions.tsv'}" in limner("caption", photos, "--review").out
    table = photos / "captions.tsv"
    table.write_text(table.read_text().replace("a red square", "a blue square", 1))
    assert limner("caption", photos, "--apply").out == "Changed captions: 1 (0.png)\n"
    assert (photos / "0.txt").read_text() == "a blue square\n"
    told = limner("caption", photos, *flags(scribe), "--overwrite")
    assert "2 written, 1 yours" in told.out


def test_prompts_are_shown_without_a_provider_or_a_folder(limner):
    told = limner(
        "caption",
        "nowhere",
        "--show-prompt",
        "--concept-type",
        "style",
        "--base",
        "flux-dev",
        "--trigger",
        "ink",
    )
    assert told.status == 0
    assert "# for each image: image.1 goal-style.1 trigger-later.1 style-sentences.1" in told.out
    value = json.loads(limner("caption", "nowhere", "--show-prompt", "--json").out)
    assert value["set"]["version"] == "set.1 style-brief.1"


def test_a_dry_run_tells_the_price(limner, photos, scribe):
    told = limner("caption", photos, *flags(scribe), "--dry-run", "--model", "gpt-5-mini")
    assert told.status == 0
    assert "Price: less than $0.01" in told.err
    assert "3 left" in told.out
    assert not scribe.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--with: free and on this machine: ollama, lmstudio, vllm, llamacpp, local, tagger; by"),
        (("--with", "gpt"), '--with is "gpt"; it must be one of: claude'),
        (("--with", "openai", "--concept-type", "cats"), '--concept-type is "cats"'),
        (("--with", "openai", "--style", "verse"), '--style is "verse"; it must be one of sentences'),
        (("--with", "openai", "--base", "mine"), "not known which captions mine learned from"),
        (("--with", "openai", "--apply"), "--apply and --with do not go together"),
        (("--with", "openai", "--dry-run", "--review"), "--dry-run and --review do not go together"),
        (("--with", "openai", "--timeout", "0"), "--timeout is 0; it must be more than 0"),
        (("--with", "openai", "--concurrency", "99"), "--concurrency is 99"),
        (("--with", "openai", "--model", "m", "--max-image-size", "5"), "--max-image-size is 5"),
    ],
)
def test_wrong_use_is_status_2_and_one_line(limner, photos, arguments, message):
    told = limner("caption", photos, *arguments)
    assert told.status == 2
    assert message in told.err
    assert told.err.count("\n") == 1


def test_a_provider_that_fails_is_status_1(limner, photos, scribe):
    scribe.script = answers(Status(401, "bad key"))
    told = limner("caption", photos, *flags(scribe), "--json")
    assert told.status == 1
    assert json.loads(told.out)["error"]["kind"] == BadProvider.__name__
    assert "Traceback" not in told.err


def test_a_folder_that_is_not_there_is_told(limner):
    assert "does not exist. Name a folder" in limner("caption", Path("gone"), "--with", "openai").err


def test_all_sets_of_a_recipe_are_captioned_each_with_its_trigger(limner, photos, scribe, tmp_path):
    shutil.copytree(photos, tmp_path / "more")
    (tmp_path / "two.toml").write_text(
        f'[[data.sets]]\nimages = "{photos.as_posix()}"\ntrigger = "zorb"\n'
        '[[data.sets]]\nimages = "more"\ntrigger = "quovim"\n'
    )
    told = limner("caption", tmp_path / "two.toml", *flags(scribe), "--json")
    value = json.loads(told.out)
    assert [entry["new_captions"] for entry in value["sets"]] == [3, 3] and not value["failures"]
    asked = [
        [word in request.text for word in ("zorb", "quovim")] for request in scribe.requests if request.body
    ]
    assert all(sum(words) == 1 for words in asked) and [True, False] in asked and [False, True] in asked
