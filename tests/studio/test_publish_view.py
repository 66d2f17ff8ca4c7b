"""Publishing: what would be published is shown first; the token stands in no file."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from studio_scenes import make_run, press

Draw = Callable[..., AppTest]


def test_the_card_is_shown_before_anything_is_sent(
    draw: Draw, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(workspace, "cat", "done")
    run.lora_path.write_bytes(b"x")
    questions: list[list[str]] = []
    uploads: list[tuple[list[str], Any]] = []

    def answer(arguments: list[object], **_: object) -> dict[str, Any]:
        questions.append([str(word) for word in arguments])
        folder = Path(questions[-1][questions[-1].index("--dry-run") + 1])
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("# A cat\n<script>alert(1)</script>")
        return {"url": "", "files": ["README.md"]}

    def add(_: object, arguments: list[str], *, secrets: Any, **__: object) -> object:
        uploads.append((arguments, secrets))
        return SimpleNamespace(number=1)

    monkeypatch.setattr("limner.studio.publish_view.ask", answer)
    monkeypatch.setattr("limner.studio.pages.files._info", lambda *_: None)
    monkeypatch.setattr("limner.jobs.Jobs.add", add)
    app = draw("files", view="Publish")
    send = next(button for button in app.button if button.label == "Publish")
    assert send.disabled
    box = next(box for box in app.text_input if box.label == "Repository")
    box.set_value("ada/cat").run()
    press(app, "Show what would be published")
    assert questions[0][:2] == ["publish", str(run.path)] and questions[0][-1] == "--to=ada/cat"
    assert "# A cat" in app.code[0].value
    next(box for box in app.text_input if box.label.startswith("Token")).set_value("hf_secret").run()
    press(app, "Publish")
    assert uploads == [
        (["publish", str(run.path), "--to=ada/cat", "--json", "--private"], {"HF_TOKEN": "hf_secret"})
    ]
    texts = [path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()]
    assert all(b"hf_secret" not in text for text in texts)


def test_what_became_of_the_upload_is_told(
    draw: Draw, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(workspace, "cat", "done").lora_path.write_bytes(b"x")
    job = SimpleNamespace(
        number=1,
        state="failed",
        title="Publish ada/cat",
        line="The hub refuses: 401.",
        arguments=("publish",),
    )
    monkeypatch.setattr("limner.studio.pages.files._info", lambda *_: None)
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: [job])
    assert any("The hub refuses" in error.value for error in draw("files", view="Publish").error)
    job.state, job.result = "done", lambda: {"url": "https://hub/ada/cat"}
    assert any("ada/cat" in success.value for success in draw("files", view="Publish").success)
