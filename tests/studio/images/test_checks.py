"""A check is read as the verb writes it, and marked as older when a file changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from image_scenes import area, write_check
from limner.studio.images import checks
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.workspace import Workspace
from studio_scenes import words

Draw = Callable[..., AppTest]

NOWHERE = SetSettings(base="./nowhere", resolution=64)
"""A base that is not at hand: no model is loaded."""


def test_findings_stand_beside_their_picture_until_something_changes(
    draw: Draw, cats: Path, workspace: Workspace
) -> None:
    write_check(workspace, cats, SetSettings())
    app = draw("images", images="images/cats")
    text = words(app).replace("\\:", ":")
    assert r"its \<b\>edges\</b\> are wide" in text and "1 problem, advice: 1" in text
    assert "from before" not in text
    next(toggle for toggle in app.toggle if toggle.label == "Crops").set_value(True).run()
    assert "96 x 96, 60% of it to 48 x 80, by faces" in words(app)
    next(row for row in app.segmented_control if row.label == "Show").set_value("With findings").run()
    assert [box.value for box in app.text_area] == ["a cat, number 0"]
    next(row for row in app.segmented_control if row.label == "Show").set_value("All").run()
    area(app, "1.png").set_value("changed").run()
    assert "from before your last changes" in words(app) and "by faces" not in words(app)


def test_a_real_check_is_read(cats: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JSON is what the page expects, and a second one is only made where files changed."""
    from typer.testing import CliRunner

    from limner.cli.app import app as command

    images = ImageSet(workspace, cats)
    calls = []
    monkeypatch.setattr("limner.jobs.Jobs.add", lambda _, arguments, **__: calls.append(arguments))
    checks.start_check(images, NOWHERE, copy=workspace.images / "fine")
    outcome = CliRunner().invoke(command, calls[0])
    assert outcome.exit_code == 0, outcome.output
    report = checks.last_check(images, images.mark(NOWHERE))
    assert report and report.is_current and report.counts["images"] == 4
    assert report.views["0.png"]["bucket"] == [64, 64] and report.page.is_file()
    assert json.loads(outcome.stdout.splitlines()[-1])["fixed"]["folder"] == str(workspace.images / "fine")


# captioning -----------------------------------------------------------------------------------------------

SUMMARY = {
    "images": 4, "new_captions": 3, "recovered_captions": 0, "existing_captions": 0, "by_hand": 0,
    "revisions": 3,
    "failures": [{"file": "2.png", "reason": "is a <refusal>"}], "remaining": 4,
    "words": {"sofa": ["couch"]},
    "findings": ["nearly all captions say sofa"], "destination": "Anthropic at api.anthropic.com",
    "model": "claude", "estimate": 1.25, "cost": 1.5,
}  # fmt: skip
