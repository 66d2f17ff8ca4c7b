"""An XY grid of a prompt: strengths across, training steps down; asked for in one press."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from limner.run_folder import RunDir
from limner.studio.form import Form
from limner.studio.workspace import Workspace

GRID = ":material/grid_on:"
STRENGTHS = "0,0.5,1"
NEWEST = 3
"""Training steps of a run that a grid shows where nobody says which."""


@dataclass(frozen=True)
class Axes:
    """What a grid compares, as the verb takes it."""

    strengths: str
    steps: str
    """Empty: the LoRA as it is."""


def axes_of(form: Form, target: str, run: RunDir) -> Axes | None:
    """Draw the fields of a grid; what it compares where the button was pressed.

    Args:
        form: Of the page.
        target: What is chosen there.
        run: The same as a run folder; a LoRA file has no training steps.
    """
    with st.expander("XY grid: strengths and training steps", icon=GRID):
        strengths = form.text("X: strengths", STRENGTHS, name="grid", placeholder=STRENGTHS)
        newest = _newest(run)
        steps = ""
        if newest:
            steps = form.text("Y: training steps", newest, name=f"steps-grid-{target}", placeholder="last")
        if st.button("Make the XY grid", icon=GRID, width="stretch"):
            return Axes(strengths.strip() or STRENGTHS, steps.strip())
    return None


def default_axes(run: RunDir) -> Axes:
    """The grid of an image that is sent there."""
    return Axes(STRENGTHS, _newest(run))


def _newest(run: RunDir) -> str:
    """``20,40,60``: the newest steps whose LoRAs were kept; empty where there is one or none."""
    steps = sorted(step for step, _ in run.step_loras())[-NEWEST:]
    return ",".join(map(str, steps)) if len(steps) > 1 else ""


def record_of(path: Path) -> Mapping[str, Any] | None:
    """What an image was made from, of its metadata; None where another program made it."""
    try:
        with Image.open(path) as image:
            record = json.loads(str(image.info.get("limner", "")))
    except (OSError, ValueError, SyntaxError):
        return None
    is_whole = isinstance(record, dict) and {"prompt", "seed", "steps", "width", "height"} <= record.keys()
    return record if is_whole else None


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """How an image was sampled, by the names of the fields."""
    settings = {name: record[name] for name in ("seed", "steps", "width", "height")}
    distilled = record.get("distilled_guidance")
    return {**settings, "guidance": record.get("guidance") if distilled is None else distilled}


def fill_form(workspace: Workspace, target: str, record: Mapping[str, Any]) -> None:
    """Put what made an image into the fields of the page Generate."""
    form = Form(workspace, "generate")
    prompts = {f"prompt-{target}": record["prompt"], "negative": record.get("negative_prompt") or ""}
    for name, value in {**prompts, **settings_of(record)}.items():
        form.change(name, value)
