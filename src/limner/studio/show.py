"""What several pages show: a job, a picture, a number of bytes. Loads Streamlit."""

import hashlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import streamlit as st

from limner.data.images import BadImage, read_image
from limner.errors import LimnerError
from limner.files import atomic_write
from limner.jobs import Job
from limner.reporter import duration
from limner.studio.complaints import attempt
from limner.studio.live import refreshed
from limner.studio.text import plain
from limner.studio.workspace import Workspace, current

STATES = {
    "queued": (":material/schedule:", "waits"),
    "running": (":material/play_circle:", "running"),
    "stopping": (":material/stop_circle:", "stops after this step"),
    "done": (":material/check_circle:", "done"),
    "stopped": (":material/pause_circle:", "stopped"),
    "failed": (":material/error:", "failed"),
    "died": (":material/dangerous:", "died: its process is gone"),
    "killed": (":material/dangerous:", "killed: its process is gone"),
}
"""Icon and words of what a job or a run may be."""
ACTIVE = ("queued", "running", "stopping")
"""States of a job that has not ended."""
BROKEN = ("failed", "stopped", "died")
"""States of a job that did not come to its end."""
THUMBNAIL = 320
"""Pixels of the longer side of a small copy."""


def state_line(state: str) -> str:
    """A state with its icon, as Markdown."""
    icon, words = STATES.get(state, (":material/help:", state))
    return f"{icon} {words}"


def job_line(job: Job, *, again: bool = False) -> None:
    """A job in a line: state, title, last line, and a button that stops it.

    It stands in no part that refreshes itself: see :mod:`limner.studio.live`.

    Args:
        job: The job.
        again: Whether one that did not come to its end may be added once more; a training goes on.
    """
    left, right = st.columns([5, 1], vertical_alignment="center")
    number, jobs = job.number, current().jobs
    with left:
        st.markdown(f"{state_line(job.state)} · **{plain(job.title)}** · job {number}")
        if job.state == "running":
            _newest_line(number, job.line)
        elif job.line:
            (st.error if job.state in ("failed", "died") else st.caption)(plain(job.line))
    if job.state in ("queued", "running"):
        right.button(
            "Stop", key=f"stop-{number}", width="stretch", on_click=attempt, args=(jobs.stop, number)
        )
    if again and job.state in BROKEN and not job.secrets:
        label = "Resume" if job.arguments[:1] == ("train",) else "Again"
        right.button(
            label, key=f"again-{number}", width="stretch", on_click=attempt, args=(jobs.again, number)
        )


@refreshed
def _newest_line(number: int, line: str) -> None:
    """What a job says, as it says it; ``line`` where it was removed meanwhile."""
    with suppress(LimnerError):
        line = current().jobs.get(number).line
    if line:
        st.caption(plain(line))


def thumbnail(path: Path, workspace: Workspace | None = None, side: int = THUMBNAIL) -> bytes:
    """A small JPEG of a picture, kept in the workspace by path, size and time.

    Raises:
        BadImage: It cannot be read.
    """
    facts = path.stat()
    mark = hashlib.sha256(f"{path}|{facts.st_size}|{facts.st_mtime_ns}|{side}".encode()).hexdigest()[:32]
    file = (workspace or current()).thumbnails / f"{mark}.jpg"
    if not file.is_file():
        image = read_image(path, (side, side))
        image.thumbnail((side, side))
        stream = BytesIO()
        image.save(stream, "JPEG", quality=85)
        atomic_write(file, lambda draft: draft.write_bytes(stream.getvalue()), sync=False)
    return file.read_bytes()


def show_image(path: Path, caption: str = "") -> None:
    """Show a small copy of a picture; one that cannot be read is named with the reason."""
    try:
        st.image(thumbnail(path), caption=plain(caption) if caption else None, width="stretch")
    except (BadImage, OSError, LimnerError) as error:
        st.warning(plain(error))


def time_left(seconds: float | None) -> str:
    """``2 min 5 s left``; empty where nobody knows."""
    return "" if seconds is None else f"{duration(seconds)} left"
