"""What is drawn: the pages, and the one that the address names."""

from collections.abc import Callable

import streamlit as st

from limner.studio.complaints import guarded, tell
from limner.studio.links import PAGES as KNOWN
from limner.studio.pages import PAGES, PageFacts


def page_of(facts: PageFacts) -> Callable[[], None]:
    """A page below what went wrong a moment ago."""

    def draw() -> None:
        tell()
        guarded(facts.draw())()

    return draw


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Limner", page_icon=":material/brush:", layout="wide")
    pages = {
        facts.name: st.Page(
            page_of(facts), title=facts.title, icon=facts.icon, url_path=facts.name, default=facts.is_first
        )
        for facts in PAGES
    }
    st.session_state[KNOWN] = pages
    st.navigation(list(pages.values())).run()


def draw_alone(name: str) -> None:
    """Draw one page without the others, as a test does."""
    page_of(next(facts for facts in PAGES if facts.name == name))()
