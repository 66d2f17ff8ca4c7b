"""Images: dropped, looked at, captioned, checked, in the folders of the workspace."""

from pathlib import Path
from typing import get_args

import streamlit as st

from limner.models.registry import registered_bases
from limner.recipe.fields import ConceptType
from limner.reporter import counted
from limner.studio.images.caption_view import draw_captioning
from limner.studio.images.check_view import draw_check, draw_progress, summary
from limner.studio.images.checks import CheckResult, last_check
from limner.studio.images.grid_view import draw_grid
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.images.replace_view import draw_replace
from limner.studio.images.upload_view import add_images, tell_received
from limner.studio.links import open_page, parameter
from limner.studio.text import plain
from limner.studio.workspace import Workspace, current

VIEWS = {
    "pictures": ":material/grid_view: Pictures",
    "check": ":material/fact_check: Check",
    "captions": ":material/edit_note: Write captions",
    "replace": ":material/find_replace: Find and replace",
}
"""As the address names them, and as a person reads them."""


def page() -> None:
    """Draw it."""
    workspace = current()
    st.title("Images")
    tell_received()
    folder = _choice(workspace)
    with st.expander("Add images", icon=":material/add_photo_alternate:", expanded=folder is None):
        add_images(workspace, folder)
    if folder is None:
        st.info(
            "There are no images in this workspace yet. Drop some: 5 to 200 of one face, product or style."
        )
        return
    images = ImageSet(workspace, folder)
    settings = _settings(images)
    check = last_check(images, images.mark(settings))
    _head(images, check)
    view = _view()
    if view == "check":
        draw_check(images, settings, check)
    elif view == "captions":
        draw_captioning(images, settings)
    elif view == "replace":
        draw_replace(images)
    else:
        draw_progress(images)
        draw_grid(images, settings, check)


def _choice(workspace: Workspace) -> Path | None:
    """The folder that the address names, or one that is chosen."""
    folders = [workspace.named(path) for path in workspace.image_folders()]
    name = parameter("images")
    if name and name not in folders and workspace.images_in(workspace.inside(name)):
        folders.append(name)  # its images lie in folders below it
    if name and name not in folders:
        st.error(f"There are no images in {plain(workspace.named(workspace.inside(name)))} any more.")
    if not folders:
        return None
    index = folders.index(name) if name in folders else 0
    choice = st.selectbox("Folder", folders, index=index, key=f"images-choice-{name}")
    if choice != name:
        st.query_params["images"] = choice
        st.query_params.pop("page", None)
    return workspace.inside(choice)


def _settings(images: ImageSet) -> SetSettings:
    """What the images are for, kept as it is changed."""
    settings = images.settings()
    key = f"settings-{images.sign}"
    cells = st.columns([2, 2, 2, 1])
    trigger = cells[0].text_input("Trigger word", settings.trigger, key=f"{key}-trigger-{settings.trigger}")
    concepts = list(get_args(ConceptType))
    index = concepts.index(settings.concept_type) if settings.concept_type in concepts else 0
    concept_type = cells[1].selectbox("What the images share", concepts, index, key=f"{key}-concept")
    names = list(registered_bases())
    names = names if settings.base in names else [settings.base, *names]
    base = cells[2].selectbox(
        "Base", names, names.index(settings.base), key=f"{key}-base-{settings.base}", accept_new_options=True
    )
    resolution = cells[3].number_input(
        "Resolution",
        min_value=16,
        max_value=8192,
        value=settings.resolution,
        placeholder=str(settings.side),
        key=f"{key}-resolution-{settings.resolution}",
        help="Side in pixels of the square whose area images get; empty: the base's own",
    )
    changes = SetSettings(
        trigger.strip(), concept_type or settings.concept_type, base or settings.base, resolution
    )
    if changes != settings:
        images.keep(changes)
    return changes


def _head(images: ImageSet, check: CheckResult | None) -> None:
    left, right = st.columns([3, 1], vertical_alignment="center")
    count = sum(bool(images.caption(file)) for file in images.files)
    parts = [f"**{counted(len(images.files), 'image')}**, {count} with captions"]
    parts += [summary(check)] if check else ["not checked yet"]
    left.markdown(" · ".join(parts))
    rejected = images.store.rejected
    if rejected:
        with left.popover(f"{counted(len(rejected), 'file')} cannot be used"):
            for name, reason in rejected[:50]:
                st.caption(plain(f"{name} {reason}"))
    if right.button("Plan with these images", icon=":material/tune:", type="primary", width="stretch"):
        open_page("plan", images=images.name)


def _view() -> str:
    """Which part is shown: it stands in the address."""
    name = parameter("view")
    start = name if name in VIEWS else "pictures"
    view = st.segmented_control(
        "View",
        list(VIEWS),
        format_func=lambda key: VIEWS[key],
        default=start,
        required=True,
        label_visibility="collapsed",
        key="images-view",
    )
    if view != name and not (view == "pictures" and not name):
        st.query_params["view"] = str(view)
    return str(view)
