"""Dropping images: files, a zip or a folder, into a new folder of images or one that is there."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import streamlit as st

from limner.data.formats import SUFFIXES
from limner.errors import LimnerError
from limner.reporter import counted
from limner.studio.complaints import complain
from limner.studio.text import plain
from limner.studio.uploads import Upload, receive
from limner.studio.workspace import Workspace

KEY = "images-received"
REJECTIONS_SHOWN = 50


def add_images(workspace: Workspace, folder: Path | None) -> None:
    """The uploader, and where its files go.

    Args:
        workspace: Where.
        folder: The one that is open, if any.
    """
    kind = st.segmented_control(
        "Add", ["Files or a zip", "A folder"], default="Files or a zip", required=True
    )
    number = st.session_state.setdefault("upload-number", 0)
    uploads = st.file_uploader(
        "Pictures, captions (.txt), metadata, or zips of them",
        accept_multiple_files="directory" if kind == "A folder" else True,
        key=f"upload-{kind}-{number}",
    )
    targets = ["A new folder", *([f"Into {workspace.named(folder)}"] if folder else [])]
    target = (
        st.radio("Where", targets, horizontal=True, key=f"upload-target-{folder}") if folder else targets[0]
    )
    is_new = target == targets[0]
    names: Sequence[Upload] = uploads or ()
    proposal = _proposal(names)
    name = (
        st.text_input("Name of the new folder", value=proposal, key=f"upload-name-{proposal}")
        if is_new
        else ""
    )
    if uploads and st.button("Add them", icon=":material/upload:", type="primary"):
        _take(workspace, names, None if is_new else folder, name)


def _proposal(uploads: Sequence[Upload]) -> str:
    """A name for the new folder: that of the zip, or of the folder that was dropped."""
    if not uploads:
        return "new images"
    path = PurePosixPath(uploads[0].name.replace("\\", "/"))
    if len(path.parts) > 1:
        return path.parts[0]
    return path.stem if path.suffix.lower() == ".zip" else "new images"


def _take(workspace: Workspace, uploads: Sequence[Upload], folder: Path | None, name: str) -> None:
    target = folder or workspace.new_folder(workspace.images, name)
    try:
        with st.spinner("Each picture is decoded once ..."):
            result = receive(uploads, target)
    except LimnerError as error:  # what came before it stays
        complain(error)
        result = None
    if folder is None:
        with suppress(OSError):  # it holds something
            target.rmdir()
    if result is not None:
        images = sum(path.suffix.lower() in SUFFIXES for path in result.paths)
        st.session_state[KEY] = {
            "images": images,
            "others": len(result.paths) - images,
            "rejections": result.rejections,
        }
    st.session_state["upload-number"] += 1
    if target.is_dir():
        st.query_params["images"] = workspace.named(target)
    st.rerun()


def tell_received() -> None:
    """What became of the last upload, until somebody closes it."""
    outcome: dict[str, Any] | None = st.session_state.get(KEY)
    if outcome is None:
        return
    extra = f", {counted(outcome['others'], 'other file')}" if outcome["others"] else ""
    words = f"Added: {counted(outcome['images'], 'picture')}{extra}."
    rejections = outcome["rejections"]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f":material/check_circle: {plain(words)}", width="content")
            if st.button("", icon=":material/close:", key="received-close", type="tertiary", help="Close"):
                del st.session_state[KEY]
                st.rerun()
        if rejections:
            st.warning(f"{counted(len(rejections), 'file')} left out:")
            for text in rejections[:REJECTIONS_SHOWN]:
                st.caption(plain(text))
            if len(rejections) > REJECTIONS_SHOWN:
                st.caption(f"and {len(rejections) - REJECTIONS_SHOWN} more")
