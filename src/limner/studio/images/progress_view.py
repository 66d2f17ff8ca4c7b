"""A job on a set at work: how far it is, and the page drawn anew when it has ended."""

from contextlib import suppress

import streamlit as st

from limner.errors import LimnerError
from limner.jobs import Job
from limner.reporter import duration
from limner.studio.images.checks import RUNNING
from limner.studio.live import redraw_on_change, refreshed
from limner.studio.show import job_line
from limner.studio.text import plain
from limner.studio.workspace import current


def follow(jobs: list[Job]) -> bool:
    """Show the newest job while it runs; whether it does."""
    if not jobs or jobs[-1].state not in RUNNING:
        return False
    number = jobs[-1].number
    redraw_on_change(lambda: _state(number))
    job_line(jobs[-1])
    _bar(number)
    return True


def _state(number: int) -> str:
    """What a job is doing; empty where it was removed."""
    with suppress(LimnerError):
        return current().jobs.get(number).state
    return ""


@refreshed
def _bar(number: int) -> None:
    rows = []
    with suppress(LimnerError):
        rows = [row for row in current().jobs.get(number).events() if row.get("event") == "progress_made"]
    if rows and (total := rows[-1].get("total")):
        count, label = int(rows[-1]["done"]), str(rows[-1]["label"])
        note = f", {rows[-1]['note']}" if rows[-1].get("note") else ""
        text = plain(f"{label}: {count} of {total}{note}, {duration(float(rows[-1]['seconds']))}")
        st.progress(min(count / total, 1.0), text=text)
