"""The worker that keeps a base loaded gives way to trainings."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from limner.studio import loaded_base
from limner.studio.pages import run as run_page
from limner.studio.recipes import new_recipe
from limner.studio.workspace import Workspace


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
