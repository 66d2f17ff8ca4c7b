import itertools
import shutil
from pathlib import Path

import pytest

from limner.assembly.phases import phase
from limner.errors import BadRecipe, BadUsage
from limner.files import write_text
from limner.recipe import Recipe
from limner.recipe.toml import change, dump, placed
from limner.target import folder_name, home_of, overrides_from, request_for, template, unplaced
from messages import raises


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_set_wins_over_a_short_name_and_what_is_left_out_says_nothing():
    given = {"lora.rank": 3, "base": None, "set": ["lora.rank=5", "data.trigger=a cat"]}
    assert overrides_from(given) == {"lora.rank": 5, "data.trigger": "a cat"}
    assert overrides_from({"base": None, "set": None}) == {}


def test_without_a_trigger_no_prompt_speaks_of_one(photos):
    assert request_for(photos, {}, None).recipe.sample.prompts == ()
    assert request_for(photos, {"data.trigger": "sks"}, None).recipe.sample.prompts


def test_sources_tell_only_of_values_that_the_preset_chose(photos):
    sources = request_for(photos, {"lora.rank": 4}, None).sources
    assert "train.steps" in sources
    assert "lora.rank" not in sources


def test_set_may_name_the_base_and_the_goal_of_the_preset(photos):
    recipe = request_for(
        photos, overrides_from({"set": ["base=flux-dev", "concept_type=style"]}), None
    ).recipe
    assert recipe.data.resolution == 1024
    assert recipe.concept_type == "style"


def test_paths_on_the_command_line_start_where_the_person_is(photos, tmp_path):
    recipe = request_for(Path("photos"), {"data.cache": Path("c"), "base": "./model"}, None).recipe
    assert (recipe.data.images, recipe.data.cache) == (photos, tmp_path / "c")
    assert recipe.base == str(tmp_path / "model")


def test_a_recipe_names_its_run(photos):
    recipe = request_for(photos, {}, None).recipe
    write_text(Path("cat.toml"), dump(recipe))
    write_text(Path("there/recipe.toml"), dump(recipe))
    assert request_for(Path("cat.toml"), {}, None).out == Path("runs/cat")
    assert request_for(Path("there"), {}, None).out == Path("runs/photos")
    write_text(Path("there/metrics.jsonl"), "")
    assert request_for(Path("there"), {}, None).out == Path("there")
    assert request_for(Path("there"), {}, Path("other")).out == Path("other")


def test_two_folders_of_one_name_do_not_share_a_run(photos):
    write_text(Path("runs/photos/recipe.toml"), dump(request_for(photos, {}, None).recipe))
    assert request_for(photos, {}, None).out == Path("runs/photos")
    shutil.copytree(photos, "more/photos")
    with raises(BadUsage):
        request_for(Path("more/photos"), {}, None)
    assert request_for(Path("more/photos"), {}, Path("runs/b")).out == Path("runs/b")


def test_what_is_not_there_is_said(photos):
    with raises(BadUsage):
        request_for(Path("nowhere"), {}, None)
    copied = Path(shutil.copy(photos / "0.png", "recipe.toml"))
    with raises(BadRecipe):
        request_for(copied, {}, None)


def test_a_folder_has_a_name_even_when_it_is_here(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert folder_name(Path()) == "photos"
    assert folder_name(Path("/")) == "lora"


@pytest.mark.parametrize("out", ["photos", "photos/run", "photos/../photos"])
def test_a_run_among_its_images_is_refused(photos, out):
    with raises(BadUsage):
        request_for(photos, {}, Path(out))
    assert request_for(photos, {}, Path("photos-run")).out == Path("photos-run")


MARKS = ["lock", "checkpoints", "metrics.jsonl", "model", "lora.safetensors", "report.html"]


@pytest.mark.parametrize("marks", [*itertools.pairwise(MARKS), ("checkpoints/step-000100.safetensors",)])
def test_a_run_without_its_recipe_is_no_folder_of_images(photos, marks):
    for mark in marks:
        write_text(photos / mark, "")
    with pytest.raises(BadUsage, match=r"photos is a run folder that has lost its recipe. Put a recipe at"):
        request_for(Path("photos"), {}, None)


@pytest.mark.parametrize("mark", MARKS)
def test_one_name_that_a_run_has_makes_no_run_of_a_folder_of_images(photos, mark):
    write_text(photos / mark, "")
    assert request_for(Path("photos"), {}, None).recipe.data.images == photos


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".parquet"])
def test_an_archive_in_place_of_images_is_told(tmp_path, suffix):
    (tmp_path / f"photos{suffix}").write_bytes(b"PK\3\4\xff")
    with raises(BadUsage):
        request_for(Path(f"photos{suffix}"), {}, None)


def test_a_config_of_another_trainer_is_told(tmp_path):
    (tmp_path / "train.yaml").write_text("job: extension\nconfig:\n  process:\n  - type: sd_trainer\n")
    with raises(BadUsage):
        request_for(Path("train.yaml"), {}, None)
    (tmp_path / "own.toml").write_text("[lora]\nranks = 3\n")
    with pytest.raises(BadRecipe, match=r"lora\.ranks"):
        request_for(Path("own.toml"), {}, None)


def test_a_folder_in_place_of_the_recipe_is_told(photos):
    (photos / "recipe.toml").mkdir()
    with raises(BadUsage):
        request_for(photos, {}, None)


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
    first = request_for(recipes[0], {}, None)
    assert first.out == Path("runs/photos")
    write_text(tmp_path / first.out / "recipe.toml", dump(first.recipe))
    assert request_for(recipes[0], {}, None).out == first.out == request_for(first.out, {}, None).out
    with raises(BadUsage):
        request_for(recipes[1], {}, None)
    assert request_for(recipes[1], {}, Path("own")).out == Path("own")


def test_the_folder_of_all_runs_in_place_of_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        write_text(tmp_path / "runs" / name / "checkpoints" / "step-000010.safetensors", "")
    with raises(BadUsage):
        request_for(Path("runs"), {}, None)


def test_from_inside_the_folder_of_images_the_run_lies_beside_it(photos, monkeypatch):
    monkeypatch.chdir(photos)
    request = request_for(Path(), {}, None)
    assert (request.out, request.recipe.data.images) == (Path("../runs/photos"), photos)
    assert home_of(Path()) == request.out
    write_text(Path("mine.toml"), '[data]\nimages = "."\n')
    assert request_for(Path("mine.toml"), {}, None).out == Path("../runs/mine")


def test_a_folder_with_runs_in_it_is_no_folder_of_images(photos, monkeypatch):
    write_text(photos / "runs" / "a" / "checkpoints" / "step-000010.safetensors", "")
    monkeypatch.chdir(photos)
    with raises(BadUsage):
        request_for(Path(), {}, None)


def test_paths_that_were_written_relative_stay_so_beside_the_recipe(photos, tmp_path):
    words = {"data.images": Path("photos"), "data.cache": tmp_path / "c", "base": "./m.safetensors"}
    recipe = request_for(Path("photos"), {key: words[key] for key in ("data.cache", "base")}, None).recipe
    short = unplaced(recipe, Path("sub/recipe.toml"), words)
    assert (short.data.images, short.data.cache, short.base) == (
        Path("../photos"),
        tmp_path / "c",
        "../m.safetensors",
    )
    assert placed(short, tmp_path / "sub") == recipe
    assert unplaced(recipe, Path("recipe.toml"), words).base == "./m.safetensors"


def test_a_picture_in_place_of_its_folder_is_told(photos):
    picture = next(path for path in photos.iterdir() if path.suffix == ".png")
    with raises(BadUsage):
        request_for(picture, {}, None)


def test_a_base_in_place_of_images_is_told(tiny_base):
    with pytest.raises(BadUsage, match=f"is a base. Name a folder of images or a run.*--base {tiny_base}"):
        request_for(tiny_base, {}, None)


def test_several_resolutions_stand_between_commas():
    sides = {text: overrides_from({"data.resolution": text, "set": None}) for text in ("512", "512,768,1024")}
    assert Recipe(data={"resolution": sides["512"]["data.resolution"]}).data.resolution == 512
    assert sides["512,768,1024"] == {"data.resolution": (512, 768, 1024)}
    with raises(BadUsage):
        overrides_from({"data.resolution": "512x512", "set": None})


def test_the_dropped_captions_of_a_preset_give_way_to_the_empty_caption_that_is_kept(photos):
    plain, blank = (request_for(photos, {"base": "flux-dev"} | more, None).recipe for more in ({}, BLANK))
    assert (plain.data.caption_dropout, blank.data.caption_dropout) == (0.05, 0.0)
    with raises(BadRecipe):
        request_for(photos, BLANK | {"data.caption_dropout": 0.1}, None)


BLANK = {"prior.kind": "blank"}


def test_a_slider_is_made_of_options_too(photos):
    options = {"train.objective": "slider", "slider.positive": "red [neutral]"}
    for recipe in (request_for(photos, options, None).recipe, template(options)):
        assert (recipe.train.objective, recipe.slider.positive) == ("slider", "red [neutral]")


def test_a_run_on_images_that_the_base_generated_goes_on_by_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slider = {"positive": "red", "neutral": ("a cat",)}
    recipe = Recipe(train={"objective": "slider"}, slider=slider)
    write_text(tmp_path / "red.toml", dump(recipe))
    home = request_for(tmp_path / "red.toml", {}, None).out
    write_text(home / "recipe.toml", dump(change(recipe, {"data.images": tmp_path / home / "teacher"})))
    assert request_for(tmp_path / "red.toml", {}, None).out == home


def test_a_run_of_pairs_goes_on_by_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(pairs=[{"before": tmp_path / "a", "after": tmp_path / "b"}])
    write_text(tmp_path / "ink.toml", dump(recipe))
    home = request_for(tmp_path / "ink.toml", {}, None).out
    for recorded in (recipe, phase(recipe, "after")):  # in the first phase, and in the second
        write_text(home / "recipe.toml", dump(recorded))
        assert request_for(tmp_path / "ink.toml", {}, None).out == home
    write_text(home / "recipe.toml", dump(phase(recipe, "before")))
    with pytest.raises(BadUsage, match="holds a run on"):
        request_for(tmp_path / "ink.toml", {}, None)
