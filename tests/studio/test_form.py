"""Fields that remember: over a reload, in a second tab, after a restart; and what they may not remember."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import Workspace
from waiting import LONGEST

SCRIPT = """
import streamlit as st
from limner.studio.form import Form
from limner.studio.workspace import current

form = Form(current(), "trial")
marks = st.session_state.get("marks", [0, 20])
values = [
    form.text("Text", "start", name="text"),
    form.area("Area", name="area"),
    form.number("Whole", (1, 64), 4, name="whole"),
    form.number("Real", (0.0, 9.0), name="real"),
    form.slider("Slider", (-2.0, 2.0, 0.5), 1.0, name="slider"),
    form.toggle("Toggle", default=True, name="toggle"),
    form.checkbox("Box", name="box"),
    form.select("Select", ["a", "b"], "a", name="select", accept_new_options=True),
    form.segments("Segments", ["x", "y"], "x", name="segments"),
    form.several("Several", [1, 2, 3], name="several"),
    form.scale("Scale", marks, marks[-1], name="scale"),
]
st.session_state["values"] = values
"""
DEFAULTS = ["start", "", 4, None, 1.0, True, False, "a", "x", [], 20]
ENTRIES = ["new", "two\nlines", 7, 2.5, -1.5, False, True, "b", "y", [3, 1], 0]


def tab() -> AppTest:
    return AppTest.from_string(SCRIPT, default_timeout=LONGEST).run()


def enter(app: AppTest, entries: list[Any]) -> None:
    fields = [
        app.text_input[0], app.text_area[0], app.number_input[0], app.number_input[1], app.slider[0],
        app.toggle[0], app.checkbox[0], app.selectbox[0], app.segmented_control[0], app.multiselect[0],
        app.select_slider[0],
    ]  # fmt: skip
    for field, entry in zip(fields, entries, strict=True):
        field.set_value(entry)
    app.run()
    assert not app.exception


@pytest.mark.usefixtures("workspace")
def test_every_field_comes_back() -> None:
    app = tab()
    assert app.session_state["values"] == DEFAULTS
    enter(app, ENTRIES)
    assert app.session_state["values"] == ENTRIES
    app.run()
    assert app.session_state["values"] == ENTRIES
    assert tab().session_state["values"] == ENTRIES
    enter(app, DEFAULTS)
    assert tab().session_state["values"] == DEFAULTS


@pytest.mark.usefixtures("workspace")
def test_two_tabs_lose_nothing_of_each_other() -> None:
    first, second = tab(), tab()
    first.text_input[0].set_value("of the first").run()
    second.number_input[0].set_value(9).run()  # its own text stands there as before, and is not written
    values = tab().session_state["values"]
    assert values[0] == "of the first" and values[2] == 9


def test_a_choice_stays_where_marks_are_added(workspace: Workspace) -> None:
    app = tab()
    app.select_slider[0].set_value(0).run()
    app.session_state["marks"] = [0, 20, 40]
    app.run()
    assert app.session_state["values"][-1] == 0


@pytest.mark.parametrize(
    "text",
    ["{", "[]", json.dumps({"whole": 65, "real": "x", "slider": 9, "several": 3, "toggle": 1, "text": 2})],
)
def test_a_file_that_holds_something_else_counts_as_none(workspace: Workspace, text: str) -> None:
    path = workspace.root / ".limner" / "forms" / "trial.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert tab().session_state["values"] == DEFAULTS
