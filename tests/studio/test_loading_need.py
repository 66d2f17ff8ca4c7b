"""Whether a base fits the GPU, said before it is loaded."""

import json
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.studio.loading_need import need_of
from limner.studio.machine import GpuUse
from limner.studio.workspace import Workspace
from studio_scenes import make_run

Draw = Callable[..., AppTest]


@pytest.fixture
def run(workspace: Workspace) -> RunDir:
    run = make_run(workspace, "cat", "done")
    run.lora_path.write_bytes(b"x")
    causes = {"sample": {"weights": 1, "activations": 2 << 30, "context": 1 << 29, "workspace": 1 << 26}}
    run.plan_path.write_text(json.dumps({"base": "sdxl", "causes": causes}))
    return run


@pytest.mark.parametrize(("gigabytes", "count"), [(12, 1), (24, 0)])
def test_what_does_not_fit_is_said_first(
    draw: Draw, run: RunDir, monkeypatch: pytest.MonkeyPatch, gigabytes: int, count: int
) -> None:
    gpu = GpuUse("RTX", used=0, total=gigabytes << 30, processes=())
    monkeypatch.setattr("limner.studio.machine.gpus", lambda: [gpu])
    app = draw("generate", run="cat")
    texts = [box.value.replace("\\", "") for box in app.warning]
    assert [text.startswith("sdxl takes about 16.6 GB") for text in texts] == [True] * count


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"base": "glyph", "causes": {"sample": {"activations": 1, "context": 1}}}']
)
def test_where_nothing_is_known_nothing_is_said(run: RunDir, text: str) -> None:
    run.plan_path.write_text(text)
    assert need_of(run) is None


def test_before_a_training_starts_the_memory_is_asked_for(
    draw: Draw, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.studio.loaded_base.is_loaded", lambda: True)
    run.status_path.unlink()
    app = draw("run", run="cat")
    assert "Give it back: Start" in [button.label for button in app.button]
    assert "keeps a base loaded" in app.info[0].value
