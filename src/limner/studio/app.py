"""What is drawn: the pages, and the one that the address names."""

from collections.abc import Callable

import streamlit as st

from limner.errors import LimnerError
from limner.studio.links import PAGES as KNOWN
from limner.studio.pages import PAGES, PageFacts
from limner.studio.text import plain


def guarded(facts: PageFacts) -> Callable[[], None]:
    """A page whose errors are one line that helps, as on the command line."""

    def draw() -> None:
        try:
            facts.draw()()
        except LimnerError as error:
            st.error(plain(error), icon=":material/error:")

    return draw


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Limner", page_icon=":material/brush:", layout="wide")
    pages = {
        facts.name: st.Page(
            guarded(facts), title=facts.title, icon=facts.icon, url_path=facts.name, default=facts.is_first
        )
        for facts in PAGES
    }
    st.session_state[KNOWN] = pages
    st.navigation(list(pages.values())).run()


def draw_alone(name: str) -> None:
    """Draw one page without the others, as a test does."""
    guarded(next(facts for facts in PAGES if facts.name == name))()
