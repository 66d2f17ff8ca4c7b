"""Run: start, follow, stop and resume a training; curves, samples, plan beside what was measured."""

from pathlib import Path
from typing import Any

import streamlit as st

from limner.errors import BadUsage, LimnerError
from limner.files import human
from limner.jobs import Job
from limner.recipe import toml
from limner.reporter import duration
from limner.run_folder import RunDir
from limner.status import Requests, RunStatus, read_status
from limner.studio import loaded_base
from limner.studio.complaints import ICON, attempt
from limner.studio.form import Form
from limner.studio.links import link, open_page, parameter
from limner.studio.live import redraw_on_change, refreshed, states
from limner.studio.recipes import RecipeFile
from limner.studio.show import ACTIVE, job_line, show_image, state_line, time_left
from limner.studio.text import plain
from limner.studio.workspace import Workspace, current

LOG_LINES = 200


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Run")
    name = _choice(workspace)
    if not name:
        st.info("There is no run yet. Write a recipe on the page Plan first.")
        link("plan", "Plan", icon=":material/tune:")
        return
    run = RunDir(workspace.inside(workspace.runs / name))
    recipe = RecipeFile(workspace.inside(workspace.recipes / f"{name}.toml"), workspace)
    if not run.path.is_dir() and not recipe.path.is_file():
        st.error(f"There is no run {plain(name)} any more. Its folder was deleted or renamed.")
        link("home", "Home", icon=":material/home:")
        return
    _tell_unreadable(run)
    redraw_on_change(lambda: _face(workspace, run))
    _actions(workspace, name, run)
    _files(run)
    _live(name)
    _samples(name)
    _log(name)


def _tell_unreadable(run: RunDir) -> None:
    """Say that a run cannot go on, because a newer version wrote its recipe or somebody damaged it."""
    try:
        if run.recipe_path.is_file():
            toml.load(run.recipe_path)
    except LimnerError as error:
        st.error(
            plain(f"{error} If a newer version of Limner wrote it, update: pip install --upgrade limner"),
            icon=ICON,
        )


def _choice(workspace: Workspace) -> str:
    """The run that the address names; else the one that was touched last, or the first recipe."""
    names = [run.path.name for run in workspace.run_folders()]
    names += [file.stem for file in workspace.recipe_files() if file.stem not in names]
    name = parameter("run")
    if not names:
        return name
    if name and name not in names:
        return name
    index = names.index(name) if name else 0
    choice = st.selectbox("Run", names, index=index, key=f"run-choice-{name}")
    if choice != name:
        st.query_params["run"] = choice
    return choice


def _face(workspace: Workspace, run: RunDir) -> object:
    """What there is to press, and the pictures and files that are there."""
    status = read_status(run.path)
    jobs = states(workspace.jobs_of(run))
    files = [(path.name, path.stat().st_mtime_ns) for path in _lora_files(run)]
    return status and status.state, jobs, run.samples(), files, loaded_base.is_loaded()


def _actions(workspace: Workspace, name: str, run: RunDir) -> None:
    """The state, and what can be done about it."""
    status = read_status(run.path)
    jobs = workspace.jobs_of(run)
    active = [job for job in jobs if job.state in ACTIVE]
    is_running = status is not None and status.state == "running"
    with st.container():
        if status is not None:
            st.markdown(f"#### {state_line(status.state)}")
        for job in [] if is_running else active:
            job_line(job)
        if status is None:
            _last_words(jobs)
    _buttons(workspace, name, status, active)


@refreshed
def _live(name: str) -> None:
    """How far it is, figures and curves."""
    run = RunDir(current().runs / name)
    status = read_status(run.path)
    if status is None:
        return
    if status.state in ("failed", "killed"):
        _failure(status)
    if status.state == "running":
        _progress(status)
    _figures(run, status)
    _curves(run)


def _progress(status: RunStatus) -> None:
    share = status.done / status.total if status.total else 0.0
    parts = (
        status.phase,
        f"{status.done} of {status.total}" if status.total else "",
        time_left(status.seconds_left),
    )
    st.progress(min(share, 1.0), text=", ".join(part for part in parts if part))
    if status.line:
        st.caption(plain(status.line))


def _buttons(workspace: Workspace, name: str, status: RunStatus | None, active: list[Job]) -> None:
    run = RunDir(workspace.runs / name)
    is_running = status is not None and status.state == "running"
    cells = st.columns(4)
    if not active and not is_running:
        label = _start_label(workspace, name, status)
        if not label:
            st.caption("It is complete. For more steps, raise Steps on the page Plan, and come back.")
        words = loaded_base.ask_before_start() + label if label else ""
        if label:
            cells[0].button(
                words,
                icon=":material/play_arrow:",
                type="primary",
                width="stretch",
                key="start",
                on_click=attempt,
                args=(start, workspace, name),
            )
    if is_running:
        for cell, (kind, words, icon) in zip(cells, REQUESTS, strict=True):
            cell.button(
                words, icon=icon, width="stretch", key=f"ask-{kind}", on_click=_send, args=(run, kind)
            )


def _start_label(workspace: Workspace, name: str, status: RunStatus | None) -> str:
    """What starting a run means: the first time, going on, or more steps; empty where it is complete."""
    if status is None:
        return "Start"
    if status.state != "done":
        return "Resume"
    file = RecipeFile(workspace.recipes / f"{name}.toml", workspace)
    steps = file.load().train.steps if file.path.is_file() else 0
    return f"Train to step {steps}" if steps > (status.steps or 0) else ""


REQUESTS = (
    ("stop", "Stop and save", ":material/stop:"),
    ("sample", "Sample now", ":material/image:"),
    ("save", "Save a checkpoint", ":material/save:"),
    ("export", "Export a LoRA", ":material/download:"),
)
"""What can be asked of a run that trains."""


def _send(run: RunDir, kind: str) -> None:
    try:
        Requests(run).send(kind)
    except BadUsage as error:  # it ended a moment ago
        st.toast(plain(error))
    else:
        st.toast(f"Asked to {kind}: it is done after this step.")


def start(workspace: Workspace, name: str) -> Job:
    """Queue the training of a recipe, or of a run that goes on.

    Raises:
        BadUsage: It is in the queue already.
    """
    run, recipe = RunDir(workspace.runs / name), workspace.recipes / f"{name}.toml"
    if any(job.state in ACTIVE for job in workspace.jobs_of(run)):
        raise BadUsage(f"{name} is in the queue already. Follow it on the page Run.")
    loaded_base.release()
    target = recipe if recipe.is_file() else run.path
    arguments = ["train", str(target), "--out", str(run.path), "--json"]
    return workspace.jobs.add(
        arguments, title=f"Train {name}", run=run.path, device="gpu", cwd=workspace.root
    )


def _last_words(jobs: list[Job]) -> None:
    """What the last job of a run said that never began."""
    if jobs and jobs[-1].state in ("failed", "died"):
        st.error(plain(jobs[-1].line or "The process ended without a word."))


def _failure(status: RunStatus) -> None:
    words = "Its process was killed; it goes on from the last checkpoint." if status.state == "killed" else ""
    st.error(plain(status.line or words or "It ended without a word; the log below has the rest."))
    if status.saved_step:
        st.caption(f"Saved at step {status.saved_step}. Resume goes on from there.")


def _figures(run: RunDir, status: RunStatus) -> None:
    """What was planned beside what was measured."""
    cells = st.columns(4)
    if status.steps:
        cells[0].metric("Step", f"{status.step or 0} of {status.steps}")
    if status.loss is not None:
        cells[1].metric("Loss", f"{status.loss:.4f}")
    if status.validation_loss is not None:
        cells[1].metric("Validation loss", f"{status.validation_loss:.4f}")
    plan = _plan(run)
    if status.seconds_per_step:
        cells[2].metric("Per step", duration(status.seconds_per_step))
        if estimate := plan.get("seconds_per_step"):
            cells[2].caption(f"planned {duration(estimate)}")
    if status.bytes:
        cells[3].metric("Most memory", human(status.bytes))
        if status.planned_bytes:
            cells[3].caption(f"planned {human(status.planned_bytes)}")


def _plan(run: RunDir) -> dict[str, Any]:
    try:
        plan = run.read(run.plan_path)
    except LimnerError:
        return {}
    return plan if isinstance(plan, dict) else {}


def _curves(run: RunDir) -> None:
    rows = run.metrics()
    losses = [{"step": row["step"], "value": row["loss"], "curve": "loss"} for row in _finite(rows, "loss")]
    held_out = [
        {"step": row["step"], "value": row["held_out"], "curve": "validation loss"}
        for row in _finite(rows, "held_out")
    ]
    if len(losses) < 2 and not held_out:
        return
    st.line_chart(
        _thinned(losses) + held_out,
        x="step",
        y="value",
        color="curve",
        x_label="step",
        y_label="loss",
        height=260,
    )


POINTS = 600
"""Of a curve that is drawn."""


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``POINTS`` rows, each the mean of as many neighbours."""
    size = -(-len(rows) // POINTS)
    groups = [rows[start : start + size] for start in range(0, len(rows), size)] if size > 1 else []
    means = [{**rows[-1], "value": sum(row["value"] for row in rows) / len(rows)} for rows in groups]
    return [{**mean, "step": group[-1]["step"]} for mean, group in zip(means, groups, strict=True)] or rows


def _finite(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row.get(name), int | float)]


def _samples(name: str) -> None:
    """Samples: the base in the first column, then a step of choice."""
    workspace = current()
    run, form = RunDir(workspace.runs / name), Form(workspace, "run")
    samples = run.samples()
    if not samples:
        return
    st.subheader("Samples")
    steps = list(samples)
    step = steps[-1]
    if len(steps) > 1:
        is_newest = form.toggle("Follow the newest", default=True, name=f"follow-{name}")
        if not is_newest:
            step = form.scale("Step", steps, steps[-1], name=f"step-{name}")
    try:
        prompts = run.prompts()
    except LimnerError:
        prompts = []
    base = samples.get(0, {})
    for index, path in samples[step].items():
        st.caption(plain(prompts[index]) if index < len(prompts) else f"prompt {index + 1}")
        left, right = st.columns(2)
        if step and index in base:
            with left:
                show_image(base[index], "base, step 0")
        with right if step else left:
            show_image(path, f"step {step}")


def _lora_files(run: RunDir) -> list[Path]:
    """The LoRA, then the same for other tools; empty before there is one."""
    if not run.lora_path.is_file():
        return []
    return [run.lora_path, *sorted(run.path.glob("lora-*.safetensors"))]


def _files(run: RunDir) -> None:
    """What to do with the LoRA: above what grows while it is drawn, which would push a button away."""
    name = run.path.name
    paths = _lora_files(run)
    if not paths:
        return
    cells = st.columns(3)
    with cells[0]:
        _download(run, paths[0], f"{name}.safetensors")
    if cells[1].button("Generate with it", icon=":material/brush:", width="stretch"):
        open_page("generate", run=name)
    if cells[2].button("Judge and choose", icon=":material/balance:", width="stretch"):
        open_page("judge", run=name)
    for path in paths[1:]:
        _download(run, path, f"{name}-{path.stem.removeprefix('lora-')}.safetensors")


def _download(run: RunDir, path: Path, file_name: str) -> None:
    """A button for a file, which is read when it is pressed: a training may have written it anew."""
    st.download_button(
        f"Download {run.path.name}/{path.name}",
        lambda: path.open("rb"),
        file_name=file_name,
        icon=":material/download:",
        width="stretch",
        on_click="ignore",
    )


@refreshed
def _log(name: str) -> None:
    run = RunDir(current().runs / name)
    if not run.log_path.is_file():
        return
    with st.expander("Log"):
        text = run.log_path.read_text(encoding="utf-8", errors="backslashreplace")
        st.code("\n".join(text.splitlines()[-LOG_LINES:]), language=None, wrap_lines=True)
