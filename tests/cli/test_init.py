import json
from pathlib import Path

from limner.recipe.toml import load


def test_init_writes_a_recipe_that_trains_as_the_folder_would(limner, photos, trained):
    done = limner("init", "photos", "--trigger", "sks", "--rank", "4")
    assert done.status == 0
    text = Path("recipe.toml").read_text()
    assert "# Here: ai-toolkit" in text
    assert "\nrank = 4\n" in text
    limner("train", "recipe.toml")
    limner("train", "photos", "--trigger", "sks", "--rank", "4")
    (first, out), (second, also) = trained
    assert first == second
    assert out == also == Path("runs/photos")


def test_init_without_images_and_elsewhere(limner, tmp_path):
    done = limner("init", "--base", "flux-dev", "--out", "mine.toml", "--json")
    assert json.loads(done.out) == {"recipe": "mine.toml"}
    recipe = load(Path("mine.toml"))
    assert (recipe.base, recipe.data.images) == ("flux-dev", tmp_path / "images")


def test_init_overwrites_nothing(limner):
    Path("recipe.toml").write_text("mine")
    done = limner("init")
    assert done.status == 2
    assert "recipe.toml exists" in done.err
    assert Path("recipe.toml").read_text() == "mine"


def test_init_within_the_images_writes_a_second_recipe_too(limner, photos, monkeypatch):
    monkeypatch.chdir(photos)
    for name in ("recipe.toml", "second.toml", "../third.toml"):
        assert limner("init", ".", "--out", name).status == 0
        assert load(Path(name)).data.images == photos


def test_schema_is_json(limner):
    assert json.loads(limner("schema").out)["title"] == "Limner recipe"
