"""From page to page, with what they are about in the address: a reload and a second tab show the same."""

from collections.abc import Sequence
from typing import Any, NoReturn

import streamlit as st

from limner.studio.text import plain

PAGES = "limner-pages"
"""Where a session keeps the pages that Streamlit knows, by name."""


def open_page(name: str, **parameters: str) -> NoReturn:
    """Leave for a page of ``limner.studio.pages``.

    Args:
        name: Of its file.
        parameters: What stands in its address, such as ``run="cat"``.
    """
    pages: dict[str, Any] = st.session_state[PAGES]
    st.switch_page(pages[name], query_params=parameters)


def link(name: str, label: str, *, icon: str | None = None, **parameters: str) -> None:
    """A link to a page."""
    pages: dict[str, Any] = st.session_state.get(PAGES, {})
    if name in pages:
        st.page_link(pages[name], label=label, icon=icon, query_params=parameters)
    else:  # a page drawn by itself, as in a test
        st.markdown(label)


def page_number(pages: int) -> int:
    """Where somebody is in something of several pages, from 1: it stands in the address."""
    if pages < 2:
        return 1
    text = parameter("page")
    start = min(int(text), pages) if text.isdecimal() and int(text) else 1
    number = st.pagination(pages, default=start, key=f"page-{start}-of-{pages}")
    if number != start:
        st.query_params["page"] = str(number)
    return number


def tell_missing(name: str, choices: Sequence[str]) -> bool:
    """Say that what the address names is not among what a page can show, which is something else then."""
    is_missing = bool(name) and name not in choices
    if is_missing:
        st.warning(f"{plain(name)} was deleted or renamed, or is not ready yet. Another is shown.")
    return is_missing


def parameter(name: str) -> str:
    """A value in the address of this page; empty where there is none."""
    return str(st.query_params.get(name, ""))
