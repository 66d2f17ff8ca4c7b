"""What refreshes itself holds nothing that can be pressed, and buttons follow the state."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from streamlit.testing.v1 import AppTest

import limner.studio
from limner.studio.workspace import Workspace
from studio_scenes import make_run

Draw = Callable[..., AppTest]
STUDIO = Path(limner.studio.__file__).parent
PRESSED = {
    "button", "download_button", "job_line", "open_page", "page_number", "text_input", "number_input",
    "selectbox", "toggle", "checkbox", "slider", "segmented_control", "data_editor", "file_uploader", "Form",
}  # fmt: skip


def calls(function: ast.FunctionDef) -> set[str]:
    names = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "") for name in names}


def refreshed_parts() -> Iterator[tuple[str, set[str]]]:
    """Each part that refreshes itself, and all that it calls, also by way of its file."""
    for path in STUDIO.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
        for name, function in functions.items():
            if any(getattr(mark, "id", "") == "refreshed" for mark in function.decorator_list):
                reached, front = set(), {name}
                while front:
                    reached |= front
                    front = set().union(*(calls(functions[n]) for n in front if n in functions)) - reached
                yield f"{path.name} {name}", reached


def test_nothing_that_refreshes_itself_can_be_pressed() -> None:
    parts = dict(refreshed_parts())
    assert len(parts) >= 4
    assert not {name: reached & PRESSED for name, reached in parts.items() if reached & PRESSED}


def test_only_one_file_has_pages_refresh_themselves() -> None:
    files = {path.name for path in STUDIO.rglob("*.py") if "run_every" in path.read_text()}
    assert files == {"live.py"}


def test_what_is_pressed_follows_the_state(draw: Draw, workspace: Workspace) -> None:
    make_run(workspace, "cat", "running")
    app = draw("run", run="cat")
    assert "Stop and save" in [button.label for button in app.button]
    status_path = workspace.runs / "cat" / "status.json"
    status_path.write_text(status_path.read_text().replace('"running"', '"stopped"'))
    assert [button.label for button in app.run().button] == ["Resume"]
