"""Instant: one pass is a job, and training goes on from its file."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from studio_scenes import press

Draw = Callable[..., AppTest]


def test_one_pass_is_a_job_and_training_goes_on_from_its_file(
    draw: Draw, workspace: Workspace, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    lora = workspace.loras / "cats-instant.safetensors"
    report = {"lora": str(lora), "rank": 8, "images": 4, "seconds": 1.5}
    job = SimpleNamespace(
        number=7, state="done", title="Instant", line="", has_ended=True, run=None, result=lambda: report
    )

    def add(_: object, arguments: list[str], **__: object) -> object:
        calls.append(arguments)
        lora.write_bytes(save({"a": torch.zeros(2)}))
        return job

    monkeypatch.setattr("limner.jobs.Jobs.add", add)
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [job])
    app = draw("instant", images="images/cats")
    press(app, "Make the LoRA")
    assert calls == [["instant", str(cats), "--base", "glyph", "--out", str(lora), "--json"]]
    assert "rank 8, from 4 images" in app.success[0].value.replace("\\", "")
    button = next(button for button in app.button if button.label == "Finish by training")
    button.click().run()
    recipe = (workspace.recipes / "cats-instant-trained.toml").read_text()
    assert f'init = "{lora}"' in recipe and 'base = "glyph"' in recipe
