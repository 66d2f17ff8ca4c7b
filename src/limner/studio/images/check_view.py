"""What ``limner check`` says of a set, and its repairs into a new folder."""

import streamlit as st

from limner.reporter import counted
from limner.studio.complaints import attempt
from limner.studio.images.checks import CheckResult, jobs_of, start_check, start_fix
from limner.studio.images.grid_view import ICONS
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.images.progress_view import follow
from limner.studio.text import plain

FINDINGS_SHOWN = 200


def draw_check(images: ImageSet, settings: SetSettings, check: CheckResult | None) -> None:
    """Draw it."""
    is_busy = draw_progress(images)
    st.caption(
        "Reads everything as training would: crops, sharpness, light, copies, marks, captions. It changes "
        "nothing; a fix is a new folder, upright and RGB, without copies."
    )
    left, right, _ = st.columns([2, 2, 3])
    label = "Check again" if check else "Check"
    left.button(
        label,
        icon=":material/fact_check:",
        type="primary",
        disabled=is_busy,
        width="stretch",
        on_click=attempt,
        args=(start_check, images, settings),
    )
    right.button(
        "Fix into a new folder",
        icon=":material/build:",
        disabled=is_busy,
        width="stretch",
        on_click=attempt,
        args=(start_fix, images, settings),
    )
    if check:
        _findings(check)


def draw_progress(images: ImageSet) -> bool:
    """How far the newest check is, or how it ended; whether one is at work."""
    jobs = jobs_of(images, "check")
    is_busy = follow(jobs)
    if jobs and not is_busy:
        _outcome(images)
    return is_busy


def _outcome(images: ImageSet) -> None:
    """How the last job ended."""
    job = jobs_of(images, "check")[-1]
    if job.state in ("failed", "died"):
        st.error(plain(job.line or "The check ended without a word."))
        return
    report = (job.result() or {}).get("fixed")
    if not isinstance(report, dict):
        return
    folder = images.workspace.inside(str(report["folder"]))
    counts = (
        f"{len(report['copies'])} copied, {len(report['conversions'])} converted, "
        f"{len(report['left_behind'])} left behind"
    )
    with st.container(border=True):
        left, right = st.columns([4, 1], vertical_alignment="center")
        left.markdown(f":material/check_circle: {plain(images.workspace.named(folder))}: {plain(counts)}")
        if folder.is_dir() and right.button("Open", icon=":material/folder_open:", width="stretch"):
            st.query_params["images"] = images.workspace.named(folder)
            st.rerun()


def summary(check: CheckResult) -> str:
    """A check in a line, as Markdown."""
    counts = check.counts
    words = f"{counted(counts['problem'], 'problem')}, advice: {counts['advice']}"
    words = words if counts["problem"] or counts["advice"] else "check: nothing found"
    words += f", {counts['left_out']} left out" if counts["left_out"] else ""
    return plain(words) + ("" if check.is_current else " · :orange[from before your last changes]")


def _findings(check: CheckResult) -> None:
    st.markdown(f"**{summary(check)}**")
    rows = [row for row in check.findings if row["level"] != "note"]
    notes = [row for row in check.findings if row["level"] == "note"]
    for row in rows[:FINDINGS_SHOWN]:
        _finding(row)
    if len(rows) > FINDINGS_SHOWN:
        st.caption(f"and {len(rows) - FINDINGS_SHOWN} more, on the page below")
    if notes:
        with st.expander(f"Notes ({len(notes)}): training undoes these by itself"):
            for row in notes[:FINDINGS_SHOWN]:
                _finding(row)
    if check.page.is_file():
        st.download_button(
            "The page with every image as training sees it",
            check.page.read_bytes(),
            file_name="check.html",
            mime="text/html",
            icon=":material/download:",
            on_click="ignore",
        )


def _finding(row: dict[str, str]) -> None:
    icon = ICONS.get(row["level"], ":material/notes:")
    name = row["image"] or "the set"
    words = f"{plain(row['kind'])}: {plain(row['reason'])}. {plain(row['remedy'])}"
    st.markdown(f"{icon} **{plain(name)}** · {words}")
