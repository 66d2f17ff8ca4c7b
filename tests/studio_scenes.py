"""Runs and pages for the tests of the studio."""

import json
import socket
import time
from dataclasses import asdict

import psutil
from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.run_folder import RunDir
from limner.status import RunStatus
from limner.studio.workspace import Workspace


def words(app: AppTest) -> str:
    """All that a page says, in one text."""
    kinds = (
        app.title,
        app.subheader,
        app.markdown,
        app.caption,
        app.error,
        app.info,
        app.success,
        app.metric,
    )
    values = [str(element.value) for kind in kinds for element in kind]
    return "\n".join([*values, *(str(metric.label) for metric in app.metric)])


def make_run(workspace: Workspace, name: str, state: str, **values: object) -> RunDir:
    """A run folder with a recipe, metrics, samples and what it says of itself."""
    run = RunDir(workspace.runs / name)
    run.write_prompts(["a <b>cat</b>"])
    for step in (0, 20):
        path = run.sample_path(step, 0)
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (step, 90, 120)).save(path)
    run.recipe_path.write_text('base = "glyph"\n')
    rows = [{"step": step, "loss": 1 / (step + 1)} for step in range(1, 21)]
    run.metrics_path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 20, "held_out": 0.4}])
    )
    own = psutil.Process()
    status = RunStatus(
        state=state, phase="Training", done=20, total=100, step=20, steps=100, loss=0.05, pid=own.pid,
        host=socket.gethostname(), started=own.create_time(), heartbeat=time.time(), **values,  # pyright: ignore
    )  # fmt: skip
    run.status_path.write_text(json.dumps(asdict(status)))
    return run


def press(app: AppTest, label: str) -> None:
    """Press a button, and draw the page anew."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
