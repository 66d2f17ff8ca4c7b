"""The worker that keeps a base loaded gives way to trainings."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio import loaded_base
from limner.studio.pages import run as run_page
from limner.studio.recipes import new_recipe
from limner.studio.workspace import Workspace
from studio_scenes import make_run

Draw = Callable[..., AppTest]


@pytest.mark.parametrize(
    ("device", "state", "is_free"),
    [("gpu", "running", False), ("gpu", "queued", False), ("gpu", "done", True), ("cpu", "running", True)],
)
def test_the_gpu_is_free_while_no_job_has_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, device: str, state: str, *, is_free: bool
) -> None:
    jobs = [SimpleNamespace(device=device, state=state)]
    monkeypatch.setattr("limner.jobs.Jobs.all", lambda _: jobs)
    assert loaded_base.gpu_is_free(workspace) is is_free


def test_a_training_that_starts_ends_the_worker(
    workspace: Workspace, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(loaded_base._painter(), "close", lambda: calls.append("close"))
    monkeypatch.setattr("limner.jobs.Jobs.add", lambda *_, **__: calls.append("add"))
    new_recipe(workspace, cats, "cat", {"base": "glyph"})
    run_page.start(workspace, "cat")
    assert calls == ["close", "add"]
    assert not loaded_base.is_loaded()


def test_before_a_training_starts_the_memory_is_asked_for(
    draw: Draw, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(workspace, "cat", "done").status_path.unlink()
    monkeypatch.setattr("limner.studio.loaded_base.is_loaded", lambda: True)
    app = draw("run", run="cat")
    assert "Give it back: Start" in [button.label for button in app.button]
    assert "keeps a base loaded" in app.info[0].value
