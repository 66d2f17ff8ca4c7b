"""Judge and choose: what is asked, the table, the choice, the vote."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.studio.votes import read_votes
from limner.studio.workspace import Workspace
from studio_scenes import make_run, press

Draw = Callable[..., AppTest]


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


RECORD = {
    "encoder": "glyph's judge",
    "cells": [
        {"step": 0, "strength": 0.0, "likeness": interval(0.2), "leak": interval(0.0)},
        {"step": 100, "strength": 0.8, "likeness": interval(0.7), "leak": interval(0.1)},
    ],
    "recommendation": {"step": 100, "strength": 0.8, "reason": "Step 100 at 0.8 is <b>best</b>."},
}


@pytest.fixture
def run(workspace: Workspace) -> RunDir:
    run = make_run(workspace, "cat", "done")
    path = run.step_lora_path(100)
    path.parent.mkdir()
    path.write_bytes(b"x")
    return run


@pytest.fixture
def judged(run: RunDir) -> RunDir:
    run.judge_path.write_text(json.dumps(RECORD))
    for step, strength in ((0, 0.0), (100, 0.8)):
        folder = run.judge_images_path / f"step-{step:06d}"
        folder.mkdir(parents=True)
        for seed in range(2):
            path = folder / f"a-cat-strength{strength:g}-seed{seed}-0123456789ab.png"
            Image.new("RGB", (16, 16), (step, 9, seed)).save(path)
    return run


def test_the_grid_is_asked_of_the_verb(draw: Draw, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    job = SimpleNamespace(number=1)
    monkeypatch.setattr("limner.jobs.Jobs.add", lambda _, arguments, **__: calls.append(arguments) or job)
    app = draw("judge", run="cat")
    app.text_area[0].set_value("[trigger] cat\n\n[trigger] dog").run()
    press(app, "Judge")
    strengths, prompts = "--strengths=0.4,0.6,0.8,1,1.2", ["--prompt=[trigger] cat", "--prompt=[trigger] dog"]
    assert calls == [["judge", str(run.path), strengths, "--seeds=4", *prompts, "--json"]]


def test_the_measures_and_the_reason_are_shown(draw: Draw, judged: RunDir) -> None:
    app = draw("judge", run="cat")
    table = app.dataframe[0].value
    assert list(table["likeness"]) == ["0.20 (0.10 to 0.30)", "0.70 (0.60 to 0.80)"]
    assert app.success[0].value == r"Step 100 at 0\.8 is \<b\>best\</b\>\."


def test_a_choice_is_made_by_the_verb(draw: Draw, judged: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def answer(arguments: list[Any], **_: object) -> dict[str, Any]:
        calls.append([str(word) for word in arguments])
        chosen = {"step": 100, "strength": 0.8}
        judged.judge_path.write_text(json.dumps({**RECORD, "chosen": chosen}))
        return {"loras": [str(judged.lora_path)]}

    monkeypatch.setattr("limner.studio.pages.judge.ask", answer)
    app = draw("judge", run="cat")
    press(app, "Choose")
    assert calls == [["judge", str(judged.path), "--choose=100", "--strength=0.8"]]
    assert "Chosen: step 100, strength 0.8" in [caption.value for caption in app.caption]


def test_where_nothing_is_recommended_the_lora_as_it_is_comes_first(draw: Draw, judged: RunDir) -> None:
    pairs = ((0, 0.0), (100, 0.8), (100, 1.0), (100, 1.2))
    cells = [{"step": step, "strength": strength, "likeness": interval(0.2)} for step, strength in pairs]
    advice = {"step": None, "strength": None, "reason": "It cannot tell."}
    judged.judge_path.write_text(json.dumps({**RECORD, "cells": cells, "recommendation": advice}))
    app = draw("judge", run="cat")
    choice = next(box for box in app.selectbox if box.label == "Make it the run's LoRA")
    assert choice.value == "step 100, strength 1"


def test_a_vote_is_kept_for_the_cell_that_the_image_was_of(draw: Draw, judged: RunDir) -> None:
    app = draw("judge", run="cat")
    for _ in range(2):
        press(app, "Left")
    votes = read_votes(judged, (100, 0.8), (0, 0.0))
    assert len(votes) == 2
    assert f"{sum(votes.values())} of 2" in app.markdown[-1].value
    assert "Left" not in [button.label for button in app.button]


def test_a_run_that_is_gone_is_told_on_each_page_that_shows_another(draw: Draw, judged: RunDir) -> None:
    judged.lora_path.write_bytes(b"x")
    for page, parameter in (("judge", "run"), ("generate", "run"), ("files", "lora")):
        words = [warning.value for warning in draw(page, **{parameter: "gone"}).warning]
        assert any("gone was deleted or renamed" in text for text in words), page


def test_a_damaged_record_is_told(draw: Draw, run: RunDir, tmp_path: Path) -> None:
    run.judge_path.write_text("{")
    assert "cannot be read" in draw("judge", run="cat").error[0].value
    run.judge_path.write_text(json.dumps({**RECORD, "cells": [{"at": 1}]}))
    assert "another version of Limner" in draw("judge", run="cat").error[0].value
