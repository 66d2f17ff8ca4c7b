"""The pages Files and Instant: what they ask of the verbs, and what they show of the answers."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from streamlit.testing.v1 import AppTest

import messages
from limner.errors import BadUsage
from limner.studio.uploads import save_lora
from limner.studio.workspace import Workspace

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


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception


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
    app = draw("files")
    press(app, label)
    expected = [word.format(lora=lora, loras=workspace.loras) for word in arguments]
    assert asked[-1] == ["lora", *expected]
    assert "read back within 1" in app.success[0].value
    assert any("Not in the file" in caption.value for caption in app.caption)


def test_merging_takes_a_strength_each(
    draw: Draw, workspace: Workspace, lora: Path, asked: list[list[str]]
) -> None:
    (workspace.loras / "y.safetensors").write_bytes(lora.read_bytes())
    app = draw("files")
    app.multiselect[0].set_value(["loras/y.safetensors"]).run()
    next(slider for slider in app.slider if "y" in slider.label).set_value(0.5).run()
    press(app, "Merge")
    other = str(workspace.loras / "y.safetensors")
    out = str(workspace.loras / "x-merged.safetensors")
    assert asked[-1] == ["lora", "merge", str(lora), other, "--weight", "1", "--weight", "0.5", "--out", out]


def test_a_name_cannot_lead_out(draw: Draw, workspace: Workspace, lora: Path, asked: list[list[str]]) -> None:
    app = draw("files")
    name = next(box for box in app.text_input if box.value == "x-rank8")
    name.set_value("../../evil").run()
    press(app, "Resize")
    assert asked[-1][-1] == str(workspace.loras / "evil.safetensors")


def test_a_file_outside_the_workspace_is_refused(
    draw: Draw, lora: Path, asked: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    app = draw("files")
    box = next(box for box in app.text_input if box.label.startswith("Fine-tune"))
    box.set_value(str(tmp_path_factory.mktemp("else"))).run()
    press(app, "Extract")
    assert "not in the workspace" in app.error[0].value
    assert all("extract" not in question for question in asked)


class Sent(io.BytesIO):
    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name, self.size = name, len(content)


def test_a_lora_is_added_and_what_is_none_is_refused(workspace: Workspace) -> None:
    content = save({"a": torch.zeros(2)})
    assert save_lora(workspace, Sent("../a.safetensors", content)).read_bytes() == content
    assert save_lora(workspace, Sent("a.safetensors", content)).name == "a-2.safetensors"
    for name, wrong in (("a.safetensors", b"PK\x03\x04 zip"), ("a.ckpt", content)):
        with messages.raises(BadUsage):
            save_lora(workspace, Sent(name, wrong))


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
    assert "rank 8, from 4 pictures" in app.success[0].value.replace("\\", "")
    button = next(button for button in app.button if button.label == "Finish by training")
    button.click().run()
    recipe = (workspace.recipes / "cats-instant-trained.toml").read_text()
    assert f'init = "{lora}"' in recipe and 'base = "glyph"' in recipe
