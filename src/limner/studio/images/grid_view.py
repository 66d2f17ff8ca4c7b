"""The grid: small copies of the images, their captions to edit, their crops, what was found beside each."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from limner.data.captions import shows
from limner.data.images import BadImage, header
from limner.errors import LimnerError
from limner.studio.complaints import attempt, complain
from limner.studio.form import Form
from limner.studio.images.checks import CheckResult, is_fixable, start_fix
from limner.studio.images.crops import Box, bucket_counts, crop_of, path_mark, with_crop
from limner.studio.images.history import History
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.links import page_number
from limner.studio.show import thumbnail
from limner.studio.text import plain
from limner.studio.workspace import Workspace

PER_PAGE = 24
MAX_BELONGINGS = 4
COMPANION = 72
"""Pixels of the width of a mask or a control image beside its image."""
MAX_TITLE = 30
"""Letters of a change on its button."""
ICONS = {
    "problem": ":red[:material/error:]",
    "advice": ":orange[:material/info:]",
    "note": ":material/notes:",
}
FILTERS = ("All", "Without caption", "With findings")


@dataclass(frozen=True)
class Grid:
    """What each card needs."""

    images: ImageSet
    settings: SetSettings
    check: CheckResult | None
    shows_crops: bool


def draw_grid(images: ImageSet, settings: SetSettings, check: CheckResult | None) -> None:
    """Draw a page of images."""
    cells = st.columns([3, 2, 3], vertical_alignment="bottom")
    form = Form(images.workspace, "images")
    choice = form.segments("Show", FILTERS, FILTERS[0], name="filter", column=cells[0])
    shows_crops = form.toggle(
        "Crops", name="crops", column=cells[1], help="How each is cropped at this resolution"
    )
    with cells[2]:
        undo_button(images)
    grid = Grid(images, settings, check, shows_crops)
    if shows_crops:
        _buckets(grid)
    files = [file for file in images.files if _is_wanted(grid, file, choice)]
    if not files:
        st.info("No image is of these.")
        return
    pages = -(-len(files) // PER_PAGE)
    number = page_number(pages)
    with st.grid(min_column_width=260):
        for file in files[(number - 1) * PER_PAGE : number * PER_PAGE]:
            with st.container(border=True):
                _card(grid, file)


def undo_button(images: ImageSet) -> None:
    """Takes the newest change back."""
    history = History(images)
    changes = history.changes()
    if not changes:
        st.button("Undo", icon=":material/undo:", disabled=True, width="stretch")
        return
    title = changes[-1].title
    label = f"Undo {plain(title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 2] + ' ..')}"
    note = f"{plain(title)}. Changes that can be taken back: {len(changes)}"
    if st.button(label, icon=":material/undo:", width="stretch", help=note):
        _undo(history)


def _undo(history: History) -> None:
    try:
        outcome = history.undo()
    except LimnerError as error:
        complain(error)
    else:
        if outcome and outcome[1]:
            names = ", ".join(outcome[1][:6])
            complain(f"Changed since, and left as they are: {names}. Edit them by hand.")
    st.rerun()


def _is_wanted(grid: Grid, file: str, choice: str) -> bool:
    if choice == "Without caption":
        return not shows(grid.images.caption(file))
    if choice == "With findings":
        return grid.check is not None and any(row["level"] != "note" for row in grid.check.of(file))
    return True


def _card(grid: Grid, file: str) -> None:
    images = grid.images
    _image(grid, file)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"**{plain(file)}**", width="content")
        if st.button(
            "",
            icon=":material/delete:",
            key=f"delete-{images.sign}-{file}",
            type="tertiary",
            help="Delete; Undo brings it back",
        ):
            _delete(images, file)
    _caption(grid, file)
    rows = grid.check.of(file) if grid.check else []
    for row in rows:
        icon = ICONS.get(row["level"], ":material/notes:")
        st.markdown(f"{icon} **{plain(row['kind'])}**: {plain(row['reason'])}. {plain(row['remedy'])}")
    if any(is_fixable(row) for row in rows):
        st.button(
            "Fix into a new folder",
            icon=":material/build:",
            key=f"fix-{images.sign}-{file}",
            help="Writes a copy of the whole folder in which this, and all else of its kind, is repaired",
            on_click=attempt,
            args=(start_fix, images, grid.settings),
        )
    companions = images.companions.get(file, ())
    if companions:
        with st.container(horizontal=True):
            for name in companions[:MAX_BELONGINGS]:
                _companion(images, name)
    names = [*([images.crop_file(file)] if images.crop_file(file) else []), *companions]
    if names:
        rest = f" and {len(names) - MAX_BELONGINGS} more" if len(names) > MAX_BELONGINGS else ""
        st.caption(f":material/attach_file: {plain(', '.join(names[:MAX_BELONGINGS]))}{rest}")


def _companion(images: ImageSet, name: str) -> None:
    """A mask or a control image, small; what lies elsewhere or is none is named alone."""
    with suppress(BadImage, OSError, LimnerError):
        path = images.workspace.inside(images.folder / name)
        st.image(thumbnail(path, images.workspace), width=COMPANION)


def _delete(images: ImageSet, file: str) -> None:
    try:
        History(images).delete(file)
    except LimnerError as error:
        complain(error)
    st.rerun()


def _image(grid: Grid, file: str) -> None:
    path = grid.images.folder / file
    try:
        small = thumbnail(path, grid.images.workspace)
        if not grid.shows_crops:
            st.image(small, width="stretch")
            return
        size = image_size(str(path), path_mark(path))
        bucket, crop, reason = view_of(grid, file, size)
        st.image(with_crop(small, size, crop), width="stretch")
    except (BadImage, OSError, LimnerError) as error:
        st.warning(plain(error))
        return
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    share = width * height / (size[0] * size[1])
    st.caption(
        f"{size[0]} x {size[1]}, {share:.0%} of it to {bucket[0]} x {bucket[1]}"
        + (f", by {plain(reason)}" if reason else "")
    )


def view_of(grid: Grid, file: str, size: tuple[int, int]) -> tuple[tuple[int, int], Box, str]:
    """The bucket of an image, its crop, and why it lies there: as the check has it, else the middle."""
    view = grid.check.views.get(file) if grid.check and grid.check.is_current else None
    if view and list(view["pixels"]) == list(size):
        left, top, right, bottom = view["crop"]
        width, height = view["bucket"]
        return (width, height), (left, top, right, bottom), str(view["crop_by"])
    return (*crop_of(grid.images, file, size, grid.settings.side), "")


@st.cache_data(max_entries=20_000, show_spinner=False)
def image_size(path: str, mark: str) -> tuple[int, int]:
    """(width, height) in pixels of an image, upright, read once for each content.

    Args:
        path: Of the file.
        mark: Its size and time.

    Raises:
        BadImage: It cannot be read.
    """
    del mark
    return header(Path(path))


def _sizes(images: ImageSet) -> Mapping[str, tuple[int, int]]:
    sizes = {}
    for file in images.files:
        path = images.folder / file
        try:
            sizes[file] = image_size(str(path), path_mark(path))
        except (BadImage, OSError):
            continue  # named on its card
    return sizes


def _buckets(grid: Grid) -> None:
    """How many images get which size, and where that is from."""
    is_checked = grid.check is not None and grid.check.is_current
    try:
        if is_checked and grid.check:
            counts: dict[str, int] = {}
            for view in grid.check.views.values():
                name = f"{view['bucket'][0]} x {view['bucket'][1]}"
                counts[name] = counts.get(name, 0) + 1
        else:
            counts = bucket_counts(grid.images, dict(_sizes(grid.images)), grid.settings.side)
    except LimnerError as error:
        st.warning(plain(error))
        return
    words = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items(), key=lambda row: -row[1]))
    source = "as the check found them" if is_checked else "around the middle; the check looks for faces too"
    st.caption(f"At {grid.settings.side} pixels: {plain(words)}. Crops {source}.")


def _caption(grid: Grid, file: str) -> None:
    images = grid.images
    text, reason = images.caption(file), images.fixed_by(file)
    key = _field_key(f"caption-{images.sign}-{file}", text)
    typed_text = st.text_area(
        plain(f"Caption of {file}"),
        value=text,
        height=100,
        key=key,
        placeholder="no caption",
        label_visibility="collapsed",
        disabled=bool(reason),
        on_change=save_caption,
        args=(str(images.workspace.root), str(images.folder), file, text, key),
    )
    is_open = str(typed_text).strip() != text and st.session_state.get(f"{key}-last") != typed_text
    if is_open and not reason:  # another field was left meanwhile, and cut the callback of this one short
        _write(images, file, text, key)
        st.rerun()
    if reason:
        st.caption(plain(reason))
    try:
        words = images.training_text(file, grid.settings.trigger)
    except LimnerError as error:
        st.caption(f":orange[:material/info:] {plain(error)}")
    else:
        if words:
            st.caption(f":material/visibility: training reads: {plain(words)}")


def _field_key(name: str, text: str) -> str:
    """The key of a field: another one where its file says something else than the field, which then shows it.

    As long as it stays, Streamlit keeps the field, and what is being typed in it.
    """
    text_before, number = st.session_state.get(name, (text, 0))
    typed_text = st.session_state.get(f"{name}-{number}")
    if text != text_before and (typed_text is None or text != str(typed_text).strip()):
        number += 1
    st.session_state[name] = (text, number)
    return f"{name}-{number}"


def save_caption(root: str, folder: str, file: str, before: str, key: str) -> None:
    """Write what was typed, as soon as the field is left.

    Args:
        root: The workspace.
        folder: The set.
        file: The image.
        before: The caption that stood in the field.
        key: Of the field.
    """
    images = ImageSet(Workspace(Path(root)), Path(folder))
    _write(images, file, before, key)


def _write(images: ImageSet, file: str, before: str, key: str) -> None:
    """Write what stands in a field, once for each text: one that is refused stays in the field."""
    text = str(st.session_state.get(key, before))
    try:
        conflicts = History(images).write(f"caption of {file}", {file: text}, {file: before})
    except LimnerError as error:
        complain(error)
    else:
        if conflicts:
            complain(f"The caption of {file} was changed meanwhile, and stays. You had typed: {text}")
    st.session_state[f"{key}-last"] = text
