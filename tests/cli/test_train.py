import json
from pathlib import Path

from limner.models.presets import preset
from limner.recipe import Data, Recipe
from limner.recipe.toml import dump


def test_what_is_trained_is_said(limner):
    told = " ".join(limner("train", "--help").out.split())
    assert 'Train a LoRA, or the whole base (train.method = "full"), or resume a run.' in told


def test_a_folder_of_images_trains_by_the_preset_with_the_short_names_on_top(limner, photos, trained):
    done = limner(
        "train", "photos", "--trigger", "sks cat", "--steps", "7", "--lr", "2e-4", "--concept-type", "style"
    )
    assert done.status == 0, done.err
    ((recipe, out),) = trained
    assert out == Path("runs/photos")
    expected = preset("style", "glyph", 3)
    assert recipe.sample.prompts == expected.sample.prompts
    assert recipe.lora == expected.lora
    assert (recipe.train.steps, recipe.train.learning_rate) == (7, 2e-4)
    assert recipe.data.trigger == "sks cat"
    assert recipe.data.images == photos
    assert recipe.name == "photos"
    assert "runs/photos/lora.safetensors" in done.out
    assert "train 2/2, loss 0.5" in done.err


def test_with_json_stdout_is_one_object_whatever_libraries_print(limner, photos, trained):
    done = limner("train", "photos", "--json")
    assert json.loads(done.out) == {
        "path": "runs/photos",
        "lora": "runs/photos/lora.safetensors",
        "model": None,
        "embedding": None,
        "report": "runs/photos/report.html",
        "steps": 2,
        "seconds": 1.5,
        "loss": 0.5,
        "validation_loss": None,
    }
    assert "a library that prints" in done.err


def test_every_short_name_reaches_its_key(limner, photos, trained):
    limner(
        *("train", "photos", "--base", "flux-schnell", "--rank", "3", "--batch", "2", "--resolution", "96"),
        *("--seed", "5", "--save-every", "11", "--sample-every", "-1", "--out", "there"),
        *("--set", "train.clip=0.5", "--set", "train.keep=1"),
    )
    ((recipe, out),) = trained
    assert out == Path("there")
    assert (recipe.base, recipe.lora.rank, recipe.train.batch, recipe.data.resolution) == (
        "flux-schnell",
        3,
        2,
        96,
    )
    assert (recipe.seed, recipe.train.save_every, recipe.sample.every) == (5, 11, -1)
    assert (recipe.train.clip, recipe.train.keep) == (0.5, 1)
    assert recipe.train.steps == preset("subject", "flux", 3).train.steps


def test_a_run_folder_goes_on_with_its_own_recipe(limner, photos, trained, tmp_path):
    run = tmp_path / "elsewhere"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.toml").write_text(dump(Recipe(name="old", data=Data(images=photos))))
    limner("train", "elsewhere", "--steps", "9")
    limner("train", "elsewhere/recipe.toml")
    (first, out), (second, also) = trained
    assert out == also == Path("elsewhere")
    assert (first.name, first.train.steps, second.train.steps) == ("old", 9, 1000)
