"""What went wrong while a page was asked for something, told at its next drawing."""

import streamlit as st

from limner.studio.text import plain

KEY = "images-complaints"


def complain(text: object) -> None:
    """Have a line told once."""
    st.session_state.setdefault(KEY, []).append(str(text))


def tell() -> None:
    """Tell what there is to tell."""
    for text in st.session_state.pop(KEY, []):
        st.error(plain(text), icon=":material/error:")
