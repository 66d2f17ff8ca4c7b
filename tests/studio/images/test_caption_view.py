"""The price first; a key in no file."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from image_scenes import Queue, press
from limner.studio.workspace import Workspace
from studio_scenes import words

Draw = Callable[..., AppTest]

SUMMARY = {
    "images": 4, "new_captions": 3, "recovered_captions": 0, "existing_captions": 0, "by_hand": 0,
    "revisions": 3,
    "failures": [{"file": "2.png", "reason": "is a <refusal>"}], "remaining": 4,
    "words": {"sofa": ["couch"]},
    "findings": ["nearly all captions say sofa"], "destination": "Anthropic at api.anthropic.com",
    "model": "claude", "estimate": 1.25, "cost": 1.5,
}  # fmt: skip


def test_the_price_comes_first_and_the_key_is_in_no_file(
    draw: Draw, cats: Path, workspace: Workspace, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = []
    monkeypatch.setattr(
        "limner.studio.images.caption_view.ask",
        lambda arguments, **options: questions.append((arguments, options)) or SUMMARY,
    )
    app = draw("images", images="images/cats", view="captions")
    assert next(button for button in app.button if button.label == "Write captions").disabled
    next(box for box in app.text_input if box.label == "API key").set_value("sk-secret").run()
    press(app, "Show the price")
    assert questions[0][0][-1] == "--dry-run" and "sk-secret" not in str(questions)
    assert "4 images to Anthropic at api.anthropic.com (claude). Price: $1.25." in words(app).replace(
        "\\", ""
    )
    press(app, "Write captions")
    arguments, options = queue.calls[0]
    assert (
        arguments[:3] == ["caption", str(cats), "--with=claude"]
        and "--key-env=LIMNER_CAPTION_KEY" in arguments
    )
    assert options["secrets"] == {"LIMNER_CAPTION_KEY": "sk-secret"} and "sk-secret" not in str(arguments)
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in path.read_bytes() for path in files)


def test_a_price_holds_for_what_was_asked_alone(
    draw: Draw, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.studio.images.caption_view.ask", lambda *_, **__: SUMMARY)
    app = draw("images", images="images/cats", view="captions")
    press(app, "Show the price")
    next(box for box in app.text_input if box.label == "Model").set_value("another").run()
    assert next(button for button in app.button if button.label == "Write captions").disabled and cats


def test_the_summary_of_the_last_job_is_shown(
    draw: Draw, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SimpleNamespace(
        arguments=("caption", str(cats)), state="failed", line="", number=1, result=lambda: SUMMARY
    )
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [job])
    text = words(draw("images", images="images/cats", view="captions")).replace("\\", "")
    assert "3 written, 4 not asked about, 1 without, price $1.50" in text
    assert "2.png: is a <refusal>" in text and "3 looked over together; sofa for couch" in text
    assert "nearly all captions say sofa" in text
    job.result = lambda: SUMMARY | {"cost": None}  # of a model that is in no price list
    text = words(draw("images", images="images/cats", view="captions")).replace("\\", "")
    assert "1 without" in text and "price" not in text.partition("The last time")[2].partition("\n")[0]
