"""Doctor: what this machine can train, what is installed, what is missing, what to do."""

from typing import Any

import streamlit as st

from limner.studio.text import plain
from limner.studio.verbs import ask
from limner.studio.workspace import current


@st.cache_data(show_spinner="Looking at this machine ...", ttl=600)
def _findings(workspace: str) -> dict[str, Any]:
    return ask(["doctor"], folder=current().root)


def page() -> None:
    """Draw it."""
    st.title("Doctor")
    if st.button("Look again", icon=":material/refresh:"):
        _findings.clear()
    answer = _findings(str(current().root))
    (st.success if answer["ok"] else st.error)(plain(answer["summary"]))
    rows = answer["findings"]
    _table("To do", [row for row in rows if not row["ok"]])
    _table("Worth having", [row for row in rows if row["ok"] and row["useful"]])
    in_order = [row for row in rows if row["ok"] and not row["useful"]]
    with st.expander(f"In order ({len(in_order)})"):
        _table("", in_order)


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    if title:
        st.subheader(title)
    for row in rows:
        icon = ":material/check:" if row["ok"] else ":material/close:"
        st.markdown(f"{icon} **{plain(row['name'])}** {plain(row['detail'])}")
        if row["remedy"]:
            st.code(row["remedy"], language=None)
