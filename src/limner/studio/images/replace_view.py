"""Find and replace in all captions, with a preview; adding to their beginning or end."""

import re
from collections.abc import Mapping

import streamlit as st

from limner.data.captions import split
from limner.errors import BadUsage, LimnerError
from limner.reporter import counted
from limner.studio.complaints import complain
from limner.studio.form import Form
from limner.studio.images.grid_view import undo_button
from limner.studio.images.history import History
from limner.studio.images.image_set import ImageSet
from limner.studio.text import plain

PREVIEWS = 12
MODES = ("Replace", "Put in front", "Put at the end")


def draw_replace(images: ImageSet) -> None:
    """Draw it."""
    form = Form(images.workspace, "replace")
    mode = form.segments("What", MODES, MODES[0], name="mode")
    left, right = st.columns(2)
    pattern = form.text("Find", name="find", column=left) if mode == MODES[0] else ""
    text = form.text("Replace with" if mode == MODES[0] else "Text", name="text", column=right)
    is_case, is_whole, is_regex = False, False, False
    if mode == MODES[0]:
        cells = st.columns(3)
        is_case = form.checkbox("Match case", name="case", column=cells[0])
        is_whole = form.checkbox("Whole words", name="whole", column=cells[1])
        is_regex = form.checkbox("Regular expression", name="regex", column=cells[2])
    before = {file: images.caption(file) for file in images.files if not images.fixed_by(file)}
    try:
        if mode == MODES[0]:
            expression = compiled(pattern, is_case=is_case, is_whole=is_whole, is_regex=is_regex)
            after = replacements(before, expression, text if is_regex else text.replace("\\", r"\\"))
        else:
            after = additions(before, text, in_front=mode == MODES[1])
    except LimnerError as error:
        st.error(plain(error))
        return
    label = f"Change {counted(len(after), 'caption')}"
    left, right = st.columns(2)
    if left.button(label, icon=":material/find_replace:", type="primary", disabled=not after):
        words = f'"{pattern}" to "{text}"' if mode == MODES[0] else f'"{text}" added'
        _apply(images, f"{words} in {counted(len(after), 'caption')}", before, after)
    with right:
        undo_button(images)
    _preview(before, after)


def compiled(pattern: str, *, is_case: bool, is_whole: bool, is_regex: bool) -> re.Pattern[str] | None:
    """What finds a text in captions; None where there is nothing to find.

    Raises:
        BadUsage: It is no regular expression.
    """
    if not pattern:
        return None
    source = pattern if is_regex else re.escape(pattern)
    source = rf"(?<!\w)(?:{source})(?!\w)" if is_whole else source
    try:
        return re.compile(source, 0 if is_case else re.IGNORECASE)
    except re.error as error:
        raise BadUsage(
            f"{pattern!r} is no regular expression ({error}). Correct it, or search for it as text."
        ) from error


def replacements(before: Mapping[str, str], pattern: re.Pattern[str] | None, text: str) -> dict[str, str]:
    """Image -> its new captions, of those that change.

    Args:
        before: Image -> captions.
        pattern: What is replaced.
        text: What with, as ``re.sub`` reads it.

    Raises:
        BadUsage: The text names a group that the pattern does not have.
    """
    if pattern is None:
        return {}
    try:
        after = {file: _tidy(pattern.sub(text, caption)) for file, caption in before.items()}
    except (re.error, IndexError) as error:
        raise BadUsage(
            f"{text!r} cannot take the place of what is found ({error}). Write \\\\ for a backslash."
        ) from error
    return {
        file: caption
        for file, caption in after.items()
        if caption != before[file] and pattern.search(before[file])
    }


def additions(before: Mapping[str, str], text: str, *, in_front: bool) -> dict[str, str]:
    """Image -> its captions with a text before or after each line; those without a caption get it alone."""
    text = text.strip()
    if not text:
        return {}
    after = {}
    for file, caption in before.items():
        lines = [line for line in split(caption) if line.strip()]
        pairs = [(text, line) if in_front else (line, text) for line in lines] or [(text,)]
        after[file] = "\n".join(", ".join(pair) for pair in pairs)
    return after


def _tidy(text: str) -> str:
    """Without the blanks and commas that a removed word leaves."""
    text = re.sub(r"([,;])( *[,;])+", r"\1", re.sub(r" +([,;.])", r"\1", re.sub(r" {2,}", " ", text)))
    return "\n".join(line.strip() for line in text.split("\n"))


def _preview(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    for file, text in list(after.items())[:PREVIEWS]:
        with st.container(border=True):
            st.markdown(f"**{plain(file)}**")
            left, right = st.columns(2)
            left.markdown(f":red[:material/remove:] {plain(before[file]) or 'no caption'}")
            right.markdown(f":green[:material/add:] {plain(text) or 'no caption'}")
    if len(after) > PREVIEWS:
        st.caption(f"and {len(after) - PREVIEWS} more")


def _apply(images: ImageSet, title: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    try:
        conflicts = History(images).write(title, after, before)
    except LimnerError as error:
        complain(error)
    else:
        if conflicts:
            complain(
                f"Changed meanwhile, and left as they are: {', '.join(conflicts[:6])}. Look at them again."
            )
    st.rerun()
