"""Publishing a LoRA from the page Files: the folder is written and shown first, then it is sent."""

import shutil
from pathlib import Path

import streamlit as st

from limner.jobs import Job
from limner.studio.form import Form
from limner.studio.live import redraw_on_change, states
from limner.studio.show import job_line
from limner.studio.text import plain
from limner.studio.verbs import ask
from limner.studio.workspace import Workspace, current, safe_name

CARD = "README.md"


def draw_publish(workspace: Workspace, lora: Path) -> None:
    """The form, the dry run, and the upload as a job.

    Args:
        workspace: Where.
        lora: A LoRA file; that of a run stands for the run, with its samples and facts.
    """
    target = lora.parent if lora.stem == "lora" and (lora.parent / "recipe.toml").is_file() else lora
    st.caption("To the Hugging Face hub: the files, a model card with samples and the licence of the base.")
    form, name = Form(workspace, "files"), workspace.named(target)
    repository = form.text("Repository", name=f"publish-to-{name}", placeholder="user/name")
    is_private = form.checkbox("Private", default=True, name="publish-private")
    captions = form.checkbox("With the captions of the training images", name="publish-captions")
    options = ["--captions"] if captions else []
    folder = workspace.root / ".limner" / "publish" / safe_name(workspace.named(target))
    left, right = st.columns(2)
    if left.button("Show what would be published", icon=":material/preview:", width="stretch"):
        shutil.rmtree(folder, ignore_errors=True)
        arguments = ["publish", target, *options, "--dry-run", folder]
        arguments += [f"--to={repository}"] if repository else []
        with st.spinner("Writing the folder ..."):
            ask(arguments, folder=workspace.root)
    is_seen = (folder / CARD).is_file()
    if is_seen:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        st.markdown(f"**{len(names)} files**: {plain(', '.join(names))}")
        st.code((folder / CARD).read_text(encoding="utf-8"), language="markdown", wrap_lines=True)
    token = st.text_input("Token of the hub (kept in memory alone)", type="password", key="publish-token")
    is_ready = is_seen and bool(repository)
    if right.button(
        "Publish", icon=":material/publish:", type="primary", disabled=not is_ready, width="stretch"
    ):
        arguments = ["publish", str(target), *options, f"--to={repository}", "--json"]
        arguments += ["--private"] if is_private else []
        workspace.jobs.add(
            arguments,
            title=f"Publish {repository}",
            device="cpu",
            secrets={"HF_TOKEN": token} if token else None,
            cwd=workspace.root,
        )
    _upload()


def _uploads() -> list[Job]:
    return [job for job in current().jobs.all() if job.arguments[:1] == ("publish",)]


def _upload() -> None:
    """The newest upload: at work, failed with its line, or done with its address."""
    redraw_on_change(lambda: states(_uploads()))
    jobs = _uploads()
    if not jobs:
        return
    job = jobs[-1]
    if job.state == "done":
        st.success(plain((job.result() or {}).get("url", "Published.")))
    else:
        job_line(job)
