"""A job at work shows how far it is."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from studio_scenes import words

Draw = Callable[..., AppTest]


def test_a_job_at_work_shows_how_far_it_is(draw: Draw, cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"event": "progress_made", "label": "look", "done": 3, "total": 4, "note": "", "seconds": 2.0}
    job = SimpleNamespace(
        arguments=("check", str(cats)),
        state="running",
        line="",
        number=1,
        title="Check <cats>",
        events=lambda: [row],
    )
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [job])
    monkeypatch.setattr("limner.jobs.Jobs.get", lambda *_: job)
    app = draw("images", images="images/cats", view="check")
    assert app.progress[0].proto.text.replace("\\", "") == "look: 3 of 4, 2.0 s"
    assert r"Check \<cats\>" in words(app)
    assert next(button for button in app.button if button.label == "Check").disabled
