"""Files: what the page asks of the verbs, and what it shows of their answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from studio_scenes import press

Draw = Callable[..., AppTest]
INFO = {
    "family": "flux",
    "form": "diffusers",
    "bytes": 2048,
    "dtype": "float32",
    "triggers": ["zorbix"],
    "problems": ["module x is <b>odd</b>"],
    "components": [
        {
            "name": "transformer",
            "modules": 2,
            "kinds": ["LoRA"],
            "ranks": {"16": 2},
            "norm": 1.5,
            "targets": {},
        }
    ],
    "loads": {"diffusers": "yes", "musubi": "no: it has no reader for flux"},
    "training": {"base": "glyph", "steps": "60"},
}
WRITTEN = {"path": "loras/x.safetensors", "modules": 2, "tool": "comfyui", "error": 1e-9, "left_out": ["y"]}


@pytest.fixture
def lora(workspace: Workspace) -> Path:
    path = workspace.loras / "x.safetensors"
    path.parent.mkdir()
    path.write_bytes(save({"a": torch.zeros(2)}))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    questions: list[list[str]] = []

    def answer(arguments: list[object], **_: object) -> dict[str, Any]:
        questions.append([str(argument) for argument in arguments])
        return INFO if "info" in questions[-1] else WRITTEN

    monkeypatch.setattr("limner.studio.pages.files.ask", answer)
    return questions


def test_a_lora_is_described(draw: Draw, lora: Path, asked: list[list[str]]) -> None:
    app = draw("files")
    assert {metric.label: metric.value for metric in app.metric}["Family"] == "flux"
    shown = "\n".join(element.value for element in app.markdown)
    assert r"musubi\: no\: it has no reader for flux" in shown or "musubi" in shown
    assert app.warning[0].value == r"module x is \<b\>odd\</b\>"
    assert asked == [["lora", "info", str(lora)]]


@pytest.mark.parametrize(
    ("label", "arguments"),
    [
        ("Convert", ["convert", "{lora}", "--to", "diffusers", "--out", "{loras}/x-diffusers.safetensors"]),
        ("Resize", ["resize", "{lora}", "--rank", "8", "--out", "{loras}/x-rank8.safetensors"]),
    ],
)
def test_a_file_is_written_by_the_verb(
    draw: Draw, workspace: Workspace, lora: Path, asked: list[list[str]], label: str, arguments: list[str]
) -> None:
    app = draw("files", view=label)
    press(app, label)
    expected = [word.format(lora=lora, loras=workspace.loras) for word in arguments]
    assert asked[-1] == ["lora", *expected]
    assert "read back within 1" in app.success[0].value
    assert any("Not in the file" in caption.value for caption in app.caption)


def test_merging_takes_a_strength_each(
    draw: Draw, workspace: Workspace, lora: Path, asked: list[list[str]]
) -> None:
    (workspace.loras / "y.safetensors").write_bytes(lora.read_bytes())
    app = draw("files", view="Merge")
    app.multiselect[0].set_value(["loras/y.safetensors"]).run()
    next(slider for slider in app.slider if "y" in slider.label).set_value(0.5).run()
    press(app, "Merge")
    other = str(workspace.loras / "y.safetensors")
    out = str(workspace.loras / "x-merged.safetensors")
    assert asked[-1] == ["lora", "merge", str(lora), other, "--weight", "1", "--weight", "0.5", "--out", out]


def test_a_name_cannot_lead_out(draw: Draw, workspace: Workspace, lora: Path, asked: list[list[str]]) -> None:
    app = draw("files", view="Resize")
    name = next(box for box in app.text_input if box.value == "x-rank8")
    name.set_value("../../evil").run()
    press(app, "Resize")
    assert asked[-1][-1] == str(workspace.loras / "evil.safetensors")


def test_a_file_outside_the_workspace_is_refused(
    draw: Draw, lora: Path, asked: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    app = draw("files", view="Extract")
    box = next(box for box in app.text_input if box.label.startswith("Fine-tune"))
    box.set_value(str(tmp_path_factory.mktemp("else"))).run()
    press(app, "Extract")
    assert "not in the workspace" in app.error[0].value
    assert all("extract" not in question for question in asked)
