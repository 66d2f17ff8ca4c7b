"""A workspace with a few images, and pages drawn without a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.studio.workspace import ENVIRONMENT, Workspace
from waiting import LONGEST


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, which is the studio's."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def cats(workspace: Workspace) -> Path:
    """A folder of four captioned images in it."""
    folder = workspace.images / "cats"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (96, 96), (40 * number, 90, 120)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a cat, number {number}")
    return folder


@pytest.fixture
def draw(workspace: Workspace) -> Callable[..., AppTest]:
    """Draws a page by its name, with what stands in its address."""

    def drawn(name: str, **parameters: str) -> AppTest:
        script = f"from limner.studio.app import draw_alone\ndraw_alone({name!r})\n"
        app = AppTest.from_string(script, default_timeout=LONGEST)
        for key, value in parameters.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception, app.exception[0].message
        return app

    return drawn
