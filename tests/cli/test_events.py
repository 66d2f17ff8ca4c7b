"""``--events``: what other programs read while a verb works."""

import json

import pytest

from limner.errors import BadData
from limner.events import Done, StepDone


def rows(outcome):
    """The lines on stdout; the events, and the result behind them."""
    *events, result = [json.loads(line) for line in outcome.out.splitlines()]
    assert all("event" in row for row in events) and "event" not in result
    return events, result


@pytest.fixture
def trained(verb):
    def train(recipe, out, reporter):
        print("a library that prints")  # noqa: T201
        reporter.line("training")
        with reporter.progress("Training", 2) as bar:
            reporter.event(
                StepDone(step=1, steps=2, loss=0.5, norm=1.0, learning_rate=1e-4, seconds=0.1, bytes=10)
            )
            bar.advance(2, "loss 0.5")
        done = Done(
            path=out,
            lora=out / "lora.safetensors",
            model=None,
            report=out / "report.html",
            steps=2,
            seconds=1.5,
            loss=0.5,
            validation_loss=None,
        )
        reporter.event(done)
        return done

    verb("runs", train=train)


def test_training_tells_every_event_and_ends_with_the_result(limner, photos, trained):
    done = limner("train", photos, "--events")
    events, result = rows(done)
    assert [row["event"] for row in events if row["event"] != "progress_made"] == [
        "message",
        "message",
        "step_done",
        "done",
    ]
    progress = [row for row in events if row["event"] == "progress_made"]
    assert (progress[0]["done"], progress[-1]["done"], progress[-1]["ended"]) == (0, 2, True)
    assert result == json.loads(limner("train", photos, "--json").out)
    assert "a library that prints" in done.err and "Training 2/2, loss 0.5" in done.err


def test_an_error_is_the_last_line(limner, photos, verb):
    def train(recipe, out, reporter):
        reporter.line("before")
        raise BadData("No images. Give some.")

    verb("runs", train=train)
    done = limner("train", photos, "--events")
    events, result = rows(done)
    assert done.status == 1
    assert [row["text"].partition(",")[0] for row in events] == ["Base: glyph", "before"]
    assert result == {"error": {"kind": "BadData", "message": "No images. Give some."}}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "photos", "--resolution", "32"),
        ("plan", "photos", "--base", "glyph", "--card", "RTX 4070"),
        ("caption", "photos", "--with", "ollama", "--model", "m", "--dry-run"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_each_verb_ends_with_what_json_says(limner, photos, arguments):
    done = limner(*arguments, "--events")
    events, result = rows(done)
    plain = json.loads(limner(*arguments, "--json").out)
    assert done.status in (0, 1)
    assert result.keys() == plain.keys()
    if arguments[0] == "check":
        assert any(row["event"] == "progress_made" and row["done"] == 3 for row in events)


@pytest.mark.parametrize("name", ["train", "cache", "generate", "caption", "check", "plan"])
def test_the_verbs_that_work_long_have_the_option(limner, name):
    assert "--events" in limner(name, "--help").out
