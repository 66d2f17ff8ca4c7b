"""Home: the runs, the queue, and what the machine has left."""

from pathlib import Path

import streamlit as st

from limner.files import human
from limner.jobs import Job
from limner.run_folder import RunDir
from limner.status import RunStatus, read_status
from limner.studio import machine
from limner.studio.links import link, open_page, page_number
from limner.studio.live import redraw_on_change, refreshed, states
from limner.studio.show import ACTIVE, job_line, show_image, state_line, time_left
from limner.studio.text import plain
from limner.studio.workspace import Workspace, current

RUNS_SHOWN = 12
"""Cards on a page of runs."""
ENDED_SHOWN = 5
"""Jobs that have ended, the newest."""


def page() -> None:
    """Draw it."""
    workspace = current()
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    left.title("Limner")
    if right.button("New LoRA", icon=":material/add:", type="primary", width="stretch"):
        open_page("images")
    redraw_on_change(lambda: _face(workspace))
    _machine(workspace)
    _queue()
    runs = workspace.run_folders()
    if not runs:
        _welcome(workspace)
        return
    st.subheader(f"Runs ({len(runs)})")
    pages = -(-len(runs) // RUNS_SHOWN)
    number = page_number(pages)
    _cards([run.path.name for run in runs[(number - 1) * RUNS_SHOWN : number * RUNS_SHOWN]])


def _welcome(workspace: Workspace) -> None:
    with st.container(border=True):
        st.markdown(
            "**From a handful of images to a LoRA.** Begin with 5 to 200 of one face, product or style."
        )
        link("images", "1. Images: drop, caption, check them", icon=":material/image:")
        link("plan", "2. Plan: choose a base, see what fits", icon=":material/tune:")
        link("run", "3. Run: train, and watch the samples", icon=":material/play_circle:")
        if not workspace.image_folders():
            st.caption("There are no images in this workspace yet.")


def _machine(workspace: Workspace) -> None:
    cells = st.columns(3)
    free, total = machine.disk(workspace.root)
    cells[0].metric("Disk free", human(free), help=f"of {human(total)}")
    free, total = machine.memory()
    cells[1].metric("RAM free", human(free), help=f"of {human(total)}")
    gpus = machine.gpus()
    if not gpus:
        cells[2].metric("GPU", "none", help="Only the toy base glyph trains on a processor.")
    for gpu in gpus:
        cells[2].metric(f"GPU memory in use, {gpu.name}", f"{human(gpu.used)} of {human(gpu.total)}")
        for name, size in gpu.processes[:4]:
            cells[2].caption(plain(f"{name}: {human(size)}"))


def _face(workspace: Workspace) -> object:
    """What the buttons and cards depend on."""
    return states(workspace.jobs.all()), sorted(run.path.name for run in workspace.run_folders())


def _queue() -> None:
    """What runs and waits, and the last that ended."""
    jobs = current().jobs.all()
    active = [job for job in jobs if job.state in ACTIVE]
    past_jobs = [job for job in reversed(jobs) if job not in active][:ENDED_SHOWN]
    if active:
        st.subheader(f"Queue ({len(active)})")
        for job in active:
            job_line(job)
    if len(active) > 1:
        jobs_at_once = current().jobs.at_once
        count = st.number_input("GPU jobs at once", 1, 16, jobs_at_once, key=f"at-once-{jobs_at_once}")
        if count != jobs_at_once:
            current().jobs.set_at_once(count)
            st.rerun()
    if past_jobs:
        with st.expander("Ended lately", expanded=any(job.state in ("failed", "died") for job in past_jobs)):
            for job in past_jobs:
                job_line(job, again=not any(_follows(other, job) for other in jobs))


def _follows(other: Job, job: Job) -> bool:
    """Whether a job was added later for the same: what has become of that counts."""
    return other.number > job.number and (other.arguments == job.arguments or _is_of(other, job.run))


def _is_of(job: Job, run: Path | None) -> bool:
    return run is not None and job.run == run


@refreshed
def _cards(names: list[str]) -> None:
    workspace = current()
    with st.grid(min_column_width=260):
        for name in names:
            run = RunDir(workspace.runs / name)
            with st.container(border=True):
                _card(run, read_status(run.path))


def _card(run: RunDir, status: RunStatus | None) -> None:
    samples = run.samples()
    with st.container():  # the first sample moves nothing but the picture
        if samples:
            show_image(next(iter(samples[max(samples)].values())))
    st.markdown(f"**{plain(run.path.name)}**  \n{state_line(status.state) if status else 'not started'}")
    if status and status.steps:
        parts = [f"step {status.step or 0} of {status.steps}"]
        parts += [time_left(status.seconds_left)] if status.state == "running" else []
        best = run.best_validation()
        parts += [f"best validation loss {best[1]:.4f} at step {best[0]}"] if best is not None else []
        st.caption(", ".join(part for part in parts if part))
    if status and status.state in ("failed", "killed") and status.line:
        st.error(plain(status.line))
    link("run", "Open", icon=":material/open_in_new:", run=run.path.name)
