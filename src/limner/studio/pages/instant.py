"""Instant: one to eight pictures become a LoRA in one pass, and a training may go on from there."""

from pathlib import Path

import streamlit as st

from limner.jobs import Job
from limner.models.registry import embedded_predictors, registered_bases
from limner.studio.form import Form
from limner.studio.links import open_page, parameter, tell_missing
from limner.studio.live import redraw_on_change
from limner.studio.recipes import new_recipe
from limner.studio.show import job_line, show_image
from limner.studio.text import plain
from limner.studio.uploads import receive
from limner.studio.workspace import Workspace, current, safe_name

GROUP = 8
"""Pictures that a predictor reads at once; more are read in groups."""
JOB = "instant-job"


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Instant")
    st.caption(
        "A predictor reads pictures of one style or subject and writes the LoRA in seconds, untrained. "
        "It is behind a trained LoRA; training may go on from it."
    )
    folder = _images(workspace)
    if folder is None:
        return
    form = Form(workspace, "instant")
    base, predictor = _predictor(form)
    rank = form.number("LoRA rank", (1, 128), name="rank", placeholder="as predicted")
    name = form.text("Name", f"{folder.name}-instant", name=f"name-{workspace.named(folder)}")
    path = workspace.loras / f"{safe_name(name)}.safetensors"
    if st.button("Make the LoRA", icon=":material/bolt:", type="primary"):
        options = ["--predictor", predictor] if predictor else []
        options += ["--rank", str(rank)] if rank else []
        workspace.loras.mkdir(parents=True, exist_ok=True)
        arguments = ["instant", str(folder), "--base", base, "--out", str(path), *options, "--json"]
        job = workspace.jobs.add(arguments, title=f"Instant {path.stem}", device="gpu", cwd=workspace.root)
        st.query_params[JOB] = str(job.number)
    if number := parameter(JOB):
        _outcome(workspace, int(number) if number.isdecimal() else 0, folder, base)


def _images(workspace: Workspace) -> Path | None:
    """The folder of pictures: one that is there, or what is dropped here."""
    with st.expander("Drop pictures", expanded=not workspace.image_folders()):
        name = Form(workspace, "instant").text("Name of the set", "instant", name="set")
        uploads = st.file_uploader("1 to 8 pictures", accept_multiple_files=True, key="instant-upload")
        if uploads and st.button("Use these"):
            folder = workspace.new_folder(workspace.images, name)
            result = receive(uploads, folder)
            for line in result.rejections:
                st.warning(plain(line))
            st.query_params["images"] = workspace.named(folder)
    folders = [workspace.named(path) for path in workspace.image_folders()]
    if not folders:
        st.info("Drop the pictures first.")
        return None
    selection = parameter("images")
    tell_missing(selection, folders)
    index = folders.index(selection) if selection in folders else 0
    name = st.selectbox("Pictures", folders, index=index, key=f"instant-{selection}")
    if name != folders[index]:
        st.query_params["images"] = name
    folder = workspace.inside(name)
    paths = workspace.images_in(folder)
    with st.grid(min_column_width=80):
        for path in paths[:GROUP]:
            show_image(path)
    if len(paths) > GROUP:
        st.caption(f"{len(paths)} pictures: they are read in groups of at most {GROUP}.")
    return folder


def _predictor(form: Form) -> tuple[str, str]:
    """(base, predictor); the predictor is empty where the base brings its own."""
    names = list(embedded_predictors())
    choices = [*names, *(name for name in registered_bases() if name not in names)]
    base = form.select("Base", choices, choices[0], name="base", accept_new_options=True)
    if base in names:
        return str(base), ""
    text = form.text("Predictor: a file or folder in the workspace, or a hub id", name="predictor")
    workspace = current()
    is_local = bool(text) and (workspace.root / text).exists()
    return str(base), str(workspace.inside(text)) if is_local else text


def _job(workspace: Workspace, number: int) -> Job | None:
    return next((job for job in workspace.jobs.all() if job.number == number), None)


def _outcome(workspace: Workspace, number: int, folder: Path, base: str) -> None:
    redraw_on_change(lambda: (job := _job(workspace, number)) and job.state)
    job = _job(workspace, number)
    if job is None:
        return
    if job.state != "done":
        job_line(job)
        return
    _result(workspace, job, folder, base)


def _result(workspace: Workspace, job: Job, folder: Path, base: str) -> None:
    report = job.result() or {}
    lora = workspace.root / str(report.get("lora", ""))
    if not lora.is_file():
        st.info("The file that it made was moved or deleted.")
        return
    count = report.get("images", 0)
    st.success(plain(f"{lora.name}: rank {report['rank']}, from {count} images, {report['seconds']:.1f} s"))
    if job.line:  # such as that the pictures have little in common
        st.caption(plain(job.line))
    cells = st.columns(3)
    cells[0].download_button(
        "Download", lambda: lora.open("rb"), file_name=lora.name, icon=":material/download:", width="stretch"
    )
    if cells[1].button("Generate with it", icon=":material/brush:", width="stretch"):
        open_page("generate", lora=workspace.named(lora))
    if cells[2].button("Finish by training", icon=":material/play_arrow:", width="stretch"):
        values = {"base": base, "train.init": str(lora)}
        recipe = new_recipe(workspace, folder, f"{lora.stem}-trained", values)
        open_page("plan", recipe=recipe.name)
