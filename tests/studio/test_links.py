"""What stands in the address of a page."""

from streamlit.testing.v1 import AppTest

from waiting import LONGEST


def test_a_parameter_is_read_and_a_link_is_drawn_without_the_other_pages() -> None:
    script = (
        "import streamlit as st\n"
        "from limner.studio.links import link, parameter\n"
        "st.text(parameter('run') + '|' + parameter('none'))\n"
        "link('home', 'Back')\n"
    )
    app = AppTest.from_string(script, default_timeout=LONGEST)
    app.query_params["run"] = "cat"
    app.run()
    assert app.text[0].value == "cat|" and app.markdown[0].value == "Back"


def test_what_an_address_names_and_is_gone_is_told() -> None:
    script = (
        "from limner.studio.links import tell_missing\n"
        "tell_missing('', ['cat'])\n"
        "tell_missing('cat', ['cat'])\n"
        "tell_missing('<b>dog', ['cat'])\n"
    )
    app = AppTest.from_string(script, default_timeout=LONGEST).run()
    (warning,) = app.warning
    assert warning.value.startswith(r"\<b\>dog was deleted or renamed")
