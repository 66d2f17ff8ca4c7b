"""One worker of the server that keeps a base loaded, so that the next image begins at once.

It has the GPU only while no job wants it: before a training starts it gives its memory back.
"""

from collections.abc import Iterator
from typing import Any

import streamlit as st

from limner.generation.painter import Painter
from limner.studio.show import ACTIVE
from limner.studio.workspace import Workspace


@st.cache_resource
def _painter() -> Painter:
    """The worker of this server; its process starts with the first request."""
    return Painter()


def is_loaded() -> bool:
    """Whether the worker lives, and so may hold memory."""
    return _painter().pid is not None


def ask_before_start() -> str:
    """Ask for the memory before a training: what its button says in front; empty where none is held."""
    if not is_loaded():
        return ""
    st.info("The page Generate keeps a base loaded, which holds memory that a training needs.")
    return "Give it back: "


def release() -> None:
    """End the worker, which gives all of its memory back."""
    _painter().close()


def gpu_is_free(workspace: Workspace) -> bool:
    """Whether no job has the GPU or waits for it."""
    return not any(job.device == "gpu" and job.state in ACTIVE for job in workspace.jobs.all())


def generate(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Have images made; see :class:`limner.generation.painter.Painter` for the answers."""
    return _painter().ask(request)
