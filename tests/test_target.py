import shutil
from pathlib import Path

import pytest

from limner.errors import BadRecipe, BadUsage
from limner.files import write_text
from limner.recipe.toml import dump
from limner.target import changes, folder_name, wish
from messages import raises


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_set_wins_over_a_short_name_and_what_is_left_out_says_nothing():
    given = {"lora.rank": 3, "base": None, "set": ["lora.rank=5", "data.trigger=a cat"]}
    assert changes(given) == {"lora.rank": 5, "data.trigger": "a cat"}
    assert changes({"base": None, "set": None}) == {}


def test_without_a_trigger_no_prompt_speaks_of_one(photos):
    assert wish(photos, {}, None).recipe.sample.prompts == ()
    assert wish(photos, {"data.trigger": "sks"}, None).recipe.sample.prompts


def test_sources_tell_only_of_values_that_the_preset_chose(photos):
    sources = wish(photos, {"lora.rank": 4}, None).sources
    assert "train.steps" in sources
    assert "lora.rank" not in sources


def test_set_may_name_the_base_and_the_goal_of_the_preset(photos):
    recipe = wish(photos, changes({"set": ["base=flux-dev", "concept_type=style"]}), None).recipe
    assert recipe.data.resolution == 1024
    assert recipe.concept_type == "style"


def test_paths_on_the_command_line_start_where_the_person_is(photos, tmp_path):
    recipe = wish(Path("photos"), {"data.cache": Path("c"), "base": "./model"}, None).recipe
    assert (recipe.data.images, recipe.data.cache) == (photos, tmp_path / "c")
    assert recipe.base == str(tmp_path / "model")


def test_a_recipe_names_its_run(photos):
    recipe = wish(photos, {}, None).recipe
    write_text(Path("cat.toml"), dump(recipe))
    write_text(Path("there/recipe.toml"), dump(recipe))
    assert wish(Path("cat.toml"), {}, None).out == Path("runs/cat")
    assert wish(Path("there"), {}, None).out == Path("runs/photos")
    write_text(Path("there/metrics.jsonl"), "")
    assert wish(Path("there"), {}, None).out == Path("there")
    assert wish(Path("there"), {}, Path("other")).out == Path("other")


def test_two_folders_of_one_name_do_not_share_a_run(photos):
    write_text(Path("runs/photos/recipe.toml"), dump(wish(photos, {}, None).recipe))
    assert wish(photos, {}, None).out == Path("runs/photos")
    shutil.copytree(photos, "more/photos")
    with raises(BadUsage):
        wish(Path("more/photos"), {}, None)
    assert wish(Path("more/photos"), {}, Path("runs/b")).out == Path("runs/b")


def test_what_is_not_there_is_said(photos):
    with raises(BadUsage):
        wish(Path("nowhere"), {}, None)
    copied = Path(shutil.copy(photos / "0.png", "recipe.toml"))
    with raises(BadRecipe):
        wish(copied, {}, None)


def test_a_folder_has_a_name_even_when_it_is_here(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert folder_name(Path()) == "photos"
    assert folder_name(Path("/")) == "lora"


@pytest.mark.parametrize("out", ["photos", "photos/run", "photos/../photos"])
def test_a_run_among_its_images_is_refused(photos, out):
    with raises(BadUsage):
        wish(photos, {}, Path(out))
    assert wish(photos, {}, Path("photos-run")).out == Path("photos-run")


@pytest.mark.parametrize("mark", ["lock", "checkpoints", "metrics.jsonl"])
def test_a_run_without_its_recipe_is_no_folder_of_images(photos, mark):
    (photos / mark).mkdir()
    with raises(BadUsage):
        wish(Path("photos"), {}, None)


def test_a_folder_in_place_of_the_recipe_is_told(photos):
    (photos / "recipe.toml").mkdir()
    with raises(BadUsage):
        wish(photos, {}, None)


def test_the_name_of_a_folder_becomes_one_that_every_system_takes(tmp_path):
    assert folder_name(tmp_path / ".hidden") == "hidden"
    assert folder_name(tmp_path / 'a:b?"c') == "a-b-c"
    assert folder_name(Path("/")) == "lora"


def test_recipes_on_folders_of_one_name_do_not_share_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = []
    for name in ("a", "b"):
        (tmp_path / name / "photos").mkdir(parents=True)
        recipes.append(tmp_path / name / "recipe.toml")
        recipes[-1].write_text('[data]\nimages = "photos"\n')
    first = wish(recipes[0], {}, None)
    assert first.out == Path("runs/photos")
    write_text(tmp_path / first.out / "recipe.toml", dump(first.recipe))
    assert wish(recipes[0], {}, None).out == first.out == wish(first.out, {}, None).out
    with raises(BadUsage):
        wish(recipes[1], {}, None)
    assert wish(recipes[1], {}, Path("own")).out == Path("own")


def test_the_folder_of_all_runs_in_place_of_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    with raises(BadUsage):
        wish(Path("runs"), {}, None)


def test_a_picture_in_place_of_its_folder_is_told(photos):
    picture = next(path for path in photos.iterdir() if path.suffix == ".png")
    with raises(BadUsage):
        wish(picture, {}, None)


def test_a_base_in_place_of_images_is_told(tiny_base):
    with pytest.raises(BadUsage, match=f"is a base. Name a folder of images or a run.*--base {tiny_base}"):
        wish(tiny_base, {}, None)
