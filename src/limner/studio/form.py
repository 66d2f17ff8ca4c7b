"""Fields that remember: what stands in a form is kept in the workspace, over reloads, tabs and restarts.

``.limner/forms/PAGE.json`` has what was entered last in the fields of a page. Keys of providers and tokens
are drawn by Streamlit itself, and so are in no file.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from filelock import FileLock

from limner.files import write_text
from limner.studio.workspace import Workspace

MAX_FIELDS = 2000
"""Of a page: those that were changed last; there is one for each run, folder and LoRA."""
Check = Callable[[Any], bool]


class Form:
    """The fields of a page. Each is named within the page; a name may hold what the field is about.

    Args:
        workspace: Where.
        page: Of the file and of the fields.
    """

    def __init__(self, workspace: Workspace, page: str) -> None:
        """See the class."""
        self._page = page
        self._path = workspace.root / ".limner" / "forms" / f"{page}.json"
        self._values = _read(self._path)

    def text(self, label: str, default: str = "", *, name: str, column: Any = st, **options: Any) -> str:
        """A line of text. ``column`` is the part of the page where the field stands, such as a column."""
        value = self._start(name, default, _is_text)
        return self._keep(name, column.text_input(label, value, key=self._key(name), **options), default)

    def area(self, label: str, default: str = "", *, name: str, column: Any = st, **options: Any) -> str:
        """Several lines of text."""
        value = self._start(name, default, _is_text)
        return self._keep(name, column.text_area(label, value, key=self._key(name), **options), default)

    def number(
        self,
        label: str,
        bounds: tuple[Any, Any],
        default: Any = None,
        *,
        name: str,
        column: Any = st,
        **options: Any,
    ) -> Any:
        """A number within bounds, of their type; None is an empty field."""
        low, high = bounds
        kind = type(low)  # a whole number in the file may be meant as 3.0
        options |= {"min_value": low, "max_value": high}
        value = self._start(name, default, lambda value: _is_number(value, kind) and low <= value <= high)
        value = value if value is None else kind(value)
        field = column.number_input(label, value=value, key=self._key(name), **options)
        return self._keep(name, field, default)

    def slider(
        self, label: str, bounds: tuple[float, float, float], default: float, *, name: str, column: Any = st
    ) -> float:
        """A number on a scale: the least, the most and the distance of two marks."""
        low, high, step = bounds
        value = self._start(name, default, lambda value: _is_number(value, float) and low <= value <= high)
        field = column.slider(label, low, high, float(value), step, key=self._key(name))
        return self._keep(name, field, default)

    def toggle(
        self, label: str, *, name: str, default: bool = False, column: Any = st, **options: Any
    ) -> bool:
        """On or off."""
        value = self._start(name, default, _is_switch)
        return self._keep(name, column.toggle(label, value, key=self._key(name), **options), default)

    def checkbox(
        self, label: str, *, name: str, default: bool = False, column: Any = st, **options: Any
    ) -> bool:
        """On or off, as a box."""
        value = self._start(name, default, _is_switch)
        return self._keep(name, column.checkbox(label, value, key=self._key(name), **options), default)

    def select(
        self,
        label: str,
        choices: Sequence[Any],
        default: Any = None,
        *,
        name: str,
        column: Any = st,
        **options: Any,
    ) -> Any:
        """One of several; where others are accepted (``accept_new_options``) any text."""
        rows = list(choices)
        is_open = bool(options.get("accept_new_options"))
        value = self._start(name, default, lambda value: value in rows or (is_open and _is_text(value)))
        rows = rows if value is None or value in rows else [value, *rows]
        index = rows.index(value) if value in rows else 0
        return self._keep(
            name, column.selectbox(label, rows, index=index, key=self._key(name), **options), default
        )

    def segments(
        self, label: str, choices: Sequence[str], default: str, *, name: str, column: Any = st, **options: Any
    ) -> str:
        """One of a few, side by side."""
        options |= {"required": True}
        field = column.segmented_control
        start = self._start(name, default, lambda value: value in choices)
        return self._keep(name, field(label, choices, default=start, key=self._key(name), **options), default)

    def scale(self, label: str, marks: Sequence[Any], default: Any, *, name: str, column: Any = st) -> Any:
        """One of several marks of a scale; where marks are added, what was chosen stays."""
        key = self._key(f"{name}-of-{len(marks)}")
        start = self._start(name, default, lambda value: value in marks, key)
        return self._keep(name, column.select_slider(label, marks, start, key=key), default, key)

    def several(
        self, label: str, choices: Sequence[Any], *, name: str, column: Any = st, **options: Any
    ) -> list[Any]:
        """Any number of several."""
        start = self._start(name, [], lambda value: isinstance(value, list))
        start = [value for value in start if value in choices]
        return self._keep(name, column.multiselect(label, choices, start, key=self._key(name), **options), [])

    def value(self, name: str) -> Any:
        """What was kept under a name that is no field; None where nothing was."""
        return self._values.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep something that is no field, such as an answer; None forgets it."""
        with FileLock(self._path.with_suffix(".lock"), timeout=30):
            values = _read(self._path)  # another tab may have changed other fields
            values.pop(name, None)
            if value is not None:
                values[name] = value
            self._values = dict(list(values.items())[-MAX_FIELDS:])
            write_text(self._path, json.dumps(self._values, indent=1) + "\n")

    def change(self, name: str, value: Any) -> None:
        """Put something into a field; it is there at the next drawing."""
        self.put(name, value)
        mark = f"{self._page}-form-{name}-round"
        st.session_state[mark] = st.session_state.get(mark, 0) + 1

    def _key(self, name: str) -> str:
        number = st.session_state.get(f"{self._page}-form-{name}-round", 0)
        return f"{self._page}-form-{name}" + (f"-{number}" if number else "")

    def _start(self, name: str, default: Any, check: Check, key: str = "") -> Any:
        """What a field begins with: the same as long as it is on the page, so that it is the same field."""
        key = key or self._key(name)
        mark = f"{key}-start"
        if key not in st.session_state or mark not in st.session_state:
            value = self._values.get(name, default)
            st.session_state[mark] = value if check(value) else default
            st.session_state.pop(f"{key}-last", None)
        return st.session_state[mark]

    def _keep(self, name: str, value: Any, default: Any, key: str = "") -> Any:
        """Write what was entered here, once: what another tab has entered since stays."""
        key = key or self._key(name)
        mark = f"{key}-last"
        last = st.session_state.get(mark, st.session_state[f"{key}-start"])
        st.session_state[mark] = value
        if value != last:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.put(name, None if value == default else value)
        return value


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool)
