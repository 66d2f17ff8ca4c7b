"""Doctor: what is there, what to do."""

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from studio_scenes import words

Draw = Callable[..., AppTest]


def test_doctor_lists_what_is_there_and_what_to_do(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("torch", True, "2.13.0", "", False), ("disk", False, "1 GB free", "Free 20 GB.", False)]
    names = ("name", "ok", "detail", "remedy", "useful")
    answer = {
        "ok": False,
        "summary": "Almost.",
        "findings": [dict(zip(names, row, strict=True)) for row in rows],
    }
    monkeypatch.setattr("limner.studio.pages.doctor.ask", lambda *_, **__: answer)
    app = draw("doctor")
    assert "torch" in words(app) and app.error[0].value == r"Almost\."
    assert [code.value for code in app.code] == ["Free 20 GB."]
