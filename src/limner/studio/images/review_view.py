"""All captions of a set in one table, with where each is from: looked through, and edited there."""

from pathlib import Path
from typing import Any

import streamlit as st

from limner.errors import LimnerError
from limner.studio.complaints import complain
from limner.studio.images.history import History
from limner.studio.images.image_set import ImageSet
from limner.studio.workspace import Workspace

ORIGINS = {
    "missing": "",
    "answered": "being written",
    "by hand": "you",
    "listed": "metadata file",
    "shared": "another image's",
}


def draw_review(images: ImageSet) -> None:
    """Draw the table."""
    st.markdown("**Review**")
    rows = review_rows(images)
    mark = images.mark(images.settings())
    key = f"review-{images.sign}-{mark}"
    table = st.data_editor(
        rows,
        key=key,
        hide_index=True,
        width="stretch",
        height=min(600, 38 + 36 * len(rows)),
        disabled=["image", "from", "note"],
        column_config={
            "image": st.column_config.TextColumn(width="medium"),
            "caption": st.column_config.TextColumn(width="large"),
            "from": st.column_config.TextColumn(width="small"),
            "note": st.column_config.TextColumn(width="medium"),
        },
        on_change=save_review,
        args=(str(images.workspace.root), str(images.folder), rows, key),
    )
    texts = {
        row["image"]: str(row["caption"] or "") for row, old in zip(table, rows, strict=True) if row != old
    }
    if texts and st.session_state.get(f"{key}-last") != texts:  # another change cut the callback short
        _write(images, texts, rows, key)
        st.rerun()
    st.caption("What you change here is yours: no captioner touches it afterwards.")


def review_rows(images: ImageSet) -> list[dict[str, str]]:
    """``image``, ``caption``, ``from`` and ``note`` of every image."""
    rows = []
    for file in images.files:
        state, record = images.store.state(file), images.store.record.rows.get(file)
        facts: dict[str, Any] = dict(record.facts) if record else {}
        origin = str(facts.get("model") or facts.get("by") or "") if state == "ours" else ORIGINS[state]
        note = f"flagged: {facts['flag']}" if facts.get("flag") else str(facts.get("note", ""))
        rows.append(
            {
                "image": file,
                "caption": images.caption(file),
                "from": origin,
                "note": images.fixed_by(file) or note,
            }
        )
    return rows


def save_review(root: str, folder: str, rows: list[dict[str, str]], key: str) -> None:
    """Write what was changed in the table.

    Args:
        root: The workspace.
        folder: The set.
        rows: What the table held.
        key: Of the table.
    """
    images = ImageSet(Workspace(Path(root)), Path(folder))
    edits = st.session_state[key]["edited_rows"]
    texts = {
        rows[int(number)]["image"]: str(cells["caption"] or "")
        for number, cells in edits.items()
        if "caption" in cells
    }
    _write(images, texts, rows, key)


def _write(images: ImageSet, changes: dict[str, str], rows: list[dict[str, str]], key: str) -> None:
    """Write what the table changes, once: what is refused stays in the table."""
    texts = {file: text for file, text in changes.items() if not images.fixed_by(file)}
    before = {row["image"]: row["caption"] for row in rows if row["image"] in texts}
    names = ", ".join(list(texts)[:3])
    try:
        conflicts = History(images).write(f"caption of {names}", texts, before)
    except LimnerError as error:
        complain(error)
    else:
        if conflicts:
            complain(
                f"Changed meanwhile, and left as they are: {', '.join(conflicts[:6])}. Look at them again."
            )
    st.session_state[f"{key}-last"] = changes
