"""A queue that only notes what is added."""

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from image_scenes import Queue

Draw = Callable[..., AppTest]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def add(_: object, arguments: list[str], **options: Any) -> None:
        calls.append((arguments, options))

    monkeypatch.setattr("limner.jobs.Jobs.add", add)
    return Queue(calls)
