"""Nothing outside the workspace; names that are safe; what lies where."""

import os
from pathlib import Path

import pytest

import messages
from limner.errors import BadUsage
from limner.studio.workspace import Workspace, safe_name


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "images/../../other", "a\0b"])
def test_a_path_that_leads_out_is_refused(workspace: Workspace, name: str) -> None:
    with messages.raises(BadUsage):
        workspace.inside(name)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_link_that_leads_out_is_refused(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (workspace.root / "door").symlink_to(outside)
    with messages.raises(BadUsage):
        workspace.inside("door/secret.png")


def test_what_lies_inside_is_taken(workspace: Workspace) -> None:
    assert workspace.inside("images/cats") == workspace.root / "images" / "cats"
    assert workspace.inside(workspace.root) == workspace.root


def test_a_link_to_the_workspace_is_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Workspace(tmp_path / "link").inside("x") == tmp_path / "real" / "x"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my cat", "my cat"),
        ("../../etc/passwd", "etc-passwd"),
        ("<script>alert(1)</script>", "script-alert-1-script"),
        ("...", "new"),
        ("", "new"),
        ("猫の写真", "猫の写真"),
        ("x" * 200, "x" * 60),
    ],
)
def test_a_name_becomes_safe(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_new_folders_of_one_name_get_numbers(workspace: Workspace) -> None:
    names = [workspace.new_folder(workspace.images, "cat").name for _ in range(3)]
    assert names == ["cat", "cat-2", "cat-3"]


def test_folders_of_images_are_found_and_those_of_runs_are_not(workspace: Workspace, cats: Path) -> None:
    sample = workspace.runs / "cat" / "samples" / "step-000000" / "00.png"
    hidden = workspace.root / ".limner" / "thumbnails" / "x.png"
    for path in (sample, hidden):
        path.parent.mkdir(parents=True)
        path.write_bytes((cats / "0.png").read_bytes())
    assert workspace.image_folders() == [cats]


def test_runs_are_those_with_a_recipe_the_newest_first(workspace: Workspace) -> None:
    for seconds, name in enumerate(("old", "new", "none")):
        (workspace.runs / name).mkdir(parents=True)
        if name != "none":
            recipe = workspace.runs / name / "recipe.toml"
            recipe.write_text("")
            os.utime(recipe, (seconds, seconds))
    assert [run.path.name for run in workspace.run_folders()] == ["new", "old"]


def test_a_workspace_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with messages.raises(BadUsage):
        Workspace(file).require_writable()
