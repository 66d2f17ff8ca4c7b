import json
from pathlib import Path

import pytest

from importing.corpus import written
from limner.cli.app import main
from limner.recipe.toml import load


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as info:
        main(arguments)
    return int(info.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written(tmp_path))
    return tmp_path


def test_a_recipe_is_written_that_says_where_each_value_is_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("import", "kohya.sh") == 0
    shown = capsys.readouterr().out
    assert (
        "max_train_epochs 16 -> train.steps = 240  (16 epochs x 30 images with repeats / 2 per step.)"
        in shown
    )
    assert shown.index("unknown (1)") < shown.index("kept (")
    assert load(folder / "recipe.toml").train.steps == 240
    assert "network_dim of kohya.sh" in (folder / "recipe.toml").read_text()
    assert run("import", "kohya.sh") == 2
    assert "recipe.toml exists" in capsys.readouterr().err


def test_a_recipe_elsewhere_still_finds_the_images(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "recipes").mkdir()
    assert run("import", "toolkit.yaml", "--out", "recipes/a.toml", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["trainer"] == "ai-toolkit" and value["counts"]["kept"] > 10
    assert load(folder / "recipes" / "a.toml").data.images == folder / "img"


def test_a_torn_file_is_told_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "torn.yaml").write_text("a: [")
    assert run("import", "torn.yaml") == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (folder / "recipe.toml").exists()
