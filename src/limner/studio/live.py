"""Pages that follow what happens, and on which no click is lost.

A part that is drawn again every few seconds may take a button away between its being pressed and let go; a
click on it waits for the drawing under way, and is forgotten where the part is; what grows above a button
pushes it from under the pointer. So such a part holds words, bars and charts alone. What can be pressed
stands outside of it, and above what grows: a click there is answered at once, and the page is drawn anew
only when there is something else to press or to see.
"""

from collections.abc import Callable, Iterable
from typing import ParamSpec

import streamlit as st

from limner.jobs import Job
from limner.studio.complaints import guarded

P = ParamSpec("P")
SECONDS = 2
"""Between two drawings of a part that refreshes itself."""


def refreshed(draw: Callable[P, object]) -> Callable[P, None]:
    """A part that is drawn again every 2 s. It holds nothing that can be pressed."""
    return st.fragment(guarded(draw), run_every=SECONDS)


def redraw_on_change(look: Callable[[], object]) -> None:
    """Draw the page anew as soon as ``look`` gives something else. Called before what it is about."""
    _watch(look, look())


@st.fragment(run_every=SECONDS)
def _watch(look: Callable[[], object], before: object) -> None:
    if look() != before:
        st.rerun()


def states(jobs: Iterable[Job]) -> list[tuple[int, str]]:
    """What decides which buttons jobs have: number and state of each."""
    return [(job.number, job.state) for job in jobs]
