"""What goes wrong on a page is one line that helps, as on the command line; never a traceback."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import streamlit as st

from limner.errors import LimnerError
from limner.studio.text import plain

P = ParamSpec("P")
KEY = "complaints"
ICON = ":material/error:"


def attempt(act: Callable[..., object], *arguments: Any) -> None:
    """Do what a button is for: given to it as ``on_click``, so that it is done before anything is drawn."""
    try:
        act(*arguments)
    except (LimnerError, OSError) as error:
        complain(line_of(error))


def guarded(draw: Callable[P, object]) -> Callable[P, None]:
    """A part of a page whose errors stand where it would stand."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            draw(*arguments, **options)
        except (LimnerError, OSError) as error:
            st.error(plain(line_of(error)), icon=ICON)

    return drawn


def line_of(error: LimnerError | OSError) -> str:
    """What to say of an error."""
    if isinstance(error, LimnerError):
        return str(error)
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}. See to its permissions and the space on its disk; try again."


def complain(text: object) -> None:
    """Have a line told once, at the next drawing."""
    st.session_state.setdefault(KEY, []).append(str(text))


def tell() -> None:
    """Tell what there is to tell, at a place of its own: what stands below keeps its own."""
    with st.container():
        for text in st.session_state.pop(KEY, []):
            st.error(plain(text), icon=ICON)
