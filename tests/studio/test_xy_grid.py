"""What an image says of its making, as an XY grid takes it."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from limner.run_folder import RunDir
from limner.studio.form import Form
from limner.studio.workspace import Workspace
from limner.studio.xy_grid import default_axes, fill_form, record_of, settings_of

RECORD = {"prompt": "a dog", "seed": 5, "steps": 8, "width": 64, "height": 48, "guidance": 2.0}


def image(path: Path, text: str) -> Path:
    info = PngInfo()
    info.add_text("limner", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_an_image_tells_what_made_it(tmp_path: Path) -> None:
    record = record_of(image(tmp_path / "a.png", json.dumps(RECORD)))
    assert record is not None
    assert settings_of(record) == {"seed": 5, "steps": 8, "width": 64, "height": 48, "guidance": 2.0}
    assert settings_of({**record, "distilled_guidance": 3.5})["guidance"] == 3.5


@pytest.mark.parametrize("text", ["", "[1]", "{", json.dumps({"prompt": "a dog"})])
def test_an_image_of_another_program_is_sent_nowhere(tmp_path: Path, text: str) -> None:
    assert record_of(image(tmp_path / "a.png", text)) is None
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert record_of(tmp_path / "b.png") is None


def test_a_grid_has_the_newest_steps_of_a_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert default_axes(run).steps == ""
    for step in (20, 40, 60, 80):
        run.step_lora_path(step).parent.mkdir(exist_ok=True)
        run.step_lora_path(step).write_bytes(b"x")
    assert default_axes(run).steps == "40,60,80"


def test_the_form_takes_over_what_made_an_image(workspace: Workspace) -> None:
    fill_form(workspace, "runs/cat", {**RECORD, "negative_prompt": "blur"})
    form = Form(workspace, "generate")
    assert (form.value("prompt-runs/cat"), form.value("negative"), form.value("seed")) == ("a dog", "blur", 5)
