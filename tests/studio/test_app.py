"""Every page: in an empty workspace, and without torch."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from limner.studio.pages import PAGES
from studio_scenes import words

Draw = Callable[..., AppTest]


@pytest.mark.parametrize("name", [facts.name for facts in PAGES if facts.name != "doctor"])
def test_an_empty_workspace_says_what_to_do(draw: Draw, name: str) -> None:
    app = draw(name)
    assert len(words(app)) > 20 and not app.error


def test_the_pages_load_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        "from limner.studio import app, server, demo\n"
        "from limner.studio.pages import PAGES\n"
        "for facts in PAGES: facts.draw()\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
