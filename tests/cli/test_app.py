import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limner import doctor
from limner.doctor import Diagnosis
from limner.errors import BadData, RunBusy, Stopped
from limner.events import CacheFilled, Done
from limner.models.presets import preset
from limner.recipe import Data, Recipe
from limner.recipe.toml import dump, load


@pytest.fixture
def trained(verb):
    """The calls that reached ``limner.training.train.train``."""
    calls = []

    def train(recipe, out, reporter):
        calls.append((recipe, out))
        sys.stdout.write("a library that prints\n")
        reporter.line("training")
        with reporter.progress("train", 2) as steps:
            steps.advance(2, "loss 0.5")
        return Done(
            path=out,
            lora=out / "lora.safetensors",
            model=None,
            report=out / "report.html",
            steps=2,
            seconds=1.5,
            loss=0.5,
            validation_loss=math.nan,
        )

    verb("runs", train=train)
    return calls


def test_what_is_trained_is_said(limner):
    told = " ".join(limner("train", "--help").out.split())
    assert 'Train a LoRA, or the whole base (train.method = "full"), or resume a run.' in told


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "backend:native"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
    ],
)
def test_segments_grow_for_every_version_of_torch_unless_the_user_says_otherwise(
    limner, monkeypatch, given, wanted
):
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    for name in names:
        monkeypatch.setenv(name, given.get(name, ""))
        if name not in given:
            monkeypatch.delenv(name)
    limner("schema")
    assert [os.environ[name] for name in names] == [wanted] * 2


# what is loaded, and how fast ------------------------------------------------------------------------------


def test_help_and_import_load_no_torch_and_little_else():
    code = (
        "import sys; import limner\n"
        "from limner.cli import main\n"
        "try: main({arguments})\n"
        "except SystemExit: pass\n"
        "heavy = {{'torch', 'diffusers', 'transformers', 'peft', 'numpy'}} & set(sys.modules)\n"
        "sys.stderr.write(f'{{len(sys.modules)}} {{sorted(heavy)}}')"
    )
    for arguments in (["--help"], ["train", "--help"]):
        ran = subprocess.run(
            [sys.executable, "-c", code.format(arguments=arguments)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Usage: limner" in ran.stdout
        modules, heavy = ran.stderr.split(" ", 1)
        assert heavy == "[]"
        assert 50 < int(modules) < 500  # each takes time, and there are as many on a busy machine


def test_the_module_runs_as_the_command():
    ran = subprocess.run(
        [sys.executable, "-m", "limner", "train", "nowhere", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["kind"] == "BadUsage"


# train and cache -------------------------------------------------------------------------------------------


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


def test_cache_says_what_it_did(limner, photos, verb):
    filled = CacheFilled(computed=3, reused=1, bytes=2_000_000, seconds=1.0, entries=4)
    verb("runs", cache=lambda recipe, out, reporter: filled)
    assert limner("cache", "photos").out == "4 entries: 1 reused, 3 computed (2.0 MB), in 1.0 s\n"
    assert json.loads(limner("cache", "photos", "--json").out)["bytes"] == 2_000_000


def test_only_the_first_of_several_processes_speaks(limner, photos, trained, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = limner("train", "photos")
    assert done.status == 0
    assert "lora.safetensors" not in done.out
    assert "train 2/2" not in done.err


# errors ----------------------------------------------------------------------------------------------------


INTRODUCTION = "Base: glyph, a toy of 64 pixels to try Limner with, not for photographs."


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadData("No images.\nNone."), 1),
        (RunBusy("Busy."), 1),
        (Stopped("Saved. Go on with limner train."), 1),
        (OSError(errno.EACCES, "Permission denied", "file"), 1),
    ],
)
def test_an_error_is_one_line_and_one_object(limner, photos, verb, error, status):
    def train(recipe, out, reporter):
        raise error

    verb("runs", train=train)
    plain = limner("train", "photos")
    assert (plain.status, plain.out) == (status, "")
    assert plain.err.splitlines()[0] == INTRODUCTION
    assert plain.err.splitlines()[1].startswith("limner: error: ")
    assert plain.err.count("\n") == 2
    done = limner("train", "photos", "--json")
    told = json.loads(done.out)["error"]
    assert done.status == status
    assert told["kind"] == type(error).__name__
    assert f"{INTRODUCTION}\nlimner: error: {told['message']}\n" == done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_verb_lets_by_is_one_line(limner, photos, verb, number):
    def train(recipe, out, reporter):
        if number == signal.SIGINT:  # what Python makes of it, unless a script started it in the background
            raise KeyboardInterrupt
        signal.raise_signal(number)
        pytest.fail("nobody heard it")

    before = signal.getsignal(signal.SIGTERM)
    verb("runs", train=train)
    done = limner("train", "photos", "--json")
    assert done.status == 1
    assert json.loads(done.out)["error"]["kind"] == "Stopped"
    message = "limner: error: Stopped. What was written is kept; run the same command again."
    assert done.err == f"{INTRODUCTION}\n{message}\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nowhere"), "There is no nowhere."),
        (("train", "photos", "--rank", "0"), "lora.rank is 0; it must be"),
        (("train", "photos", "--rank", "x"), "Invalid value for '--rank'"),
        (("train", "photos", "--set", "lora.rnak=3"), "Did you mean lora.rank?"),
        (("plan", "photos", "--base", "sdlx"), "Base 'sdlx' is no folder here and no known name."),
        (("plan", "photos", "--card", "Voodoo 2"), "No card 'Voodoo 2' is known."),
        (("trian", "photos"), "No such command 'trian'. Did you mean 'train'? See `limner --help`."),
        (("train", "photos", "--concept-type", "pet"), 'concept_type is "pet"'),
        (("train", "photos", "--set", "sample.prompt_file=no.txt"), "there is no such file"),
        (("train",), "Missing argument"),
        (("paint", "photos"), "No such command 'paint'"),
        (("train", "--hlp"), "(Possible options: --help, --lr). See `limner train --help`."),
        (("lora", "info", "--hlp", "x"), "See `limner lora --help`."),
        (("generate", "x.safetensors"), "A LoRA file brings no prompts"),
    ],
)
def test_wrong_usage_exits_2_in_one_line(limner, photos, arguments, message):
    for extra in ((), ("--json",)):
        done = limner(*arguments, *extra)
        assert done.status == 2
        assert done.err.startswith("limner: error: ")
        assert done.err.count("\n") == 1
        assert message in done.err
    assert message in json.loads(done.out)["error"]["message"]


def test_no_command_shows_the_help_and_counts_as_wrong(limner):
    done = limner()
    assert (done.status, done.out) == (2, "")
    assert "Usage: limner" in done.err


def test_version(limner):
    done = limner("--version")
    assert (done.status, done.out.split()[0]) == (0, "limner")


# init and schema -------------------------------------------------------------------------------------------


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


# demo, doctor ----------------------------------------------------------------------------------------------


def test_demo_hands_its_object_on(limner, verb):
    found = {
        "loras": [{"path": "demo/style.safetensors", "seconds": 61.2, "before": 0.05, "after": 0.9}],
        "sheet": "demo/sheet.png",
        "report": "demo/report.html",
    }
    verb("demo", demo=lambda out, reporter: found)
    assert json.loads(limner("demo", "--json").out) == found
    assert "demo/style.safetensors: 61 s, score 5% before, 90% after" in limner("demo").out


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_doctor_exits_1_when_something_needed_is_missing(limner, verb, ok, status):
    findings = [Diagnosis("torch", ok, "2.13", "" if ok else "pip install torch")]
    verb("doctor", doctor=lambda: findings, summary=lambda findings: "Ready.", lines=doctor.lines)
    done = limner("doctor", "--json")
    assert done.status == status
    assert json.loads(done.out)["ok"] is ok
    assert ("-> pip install torch" in limner("doctor").out) is not ok


@pytest.mark.parametrize(
    "words", [("init", "photos"), ("check", "photos", "--base", "./none", "--resolution", "32")]
)
@pytest.mark.parametrize("out", ["ring", "ring/x"])
def test_a_ring_of_links_as_out_is_one_line(limner, photos, tmp_path, words, out):
    (tmp_path / "ring").symlink_to(tmp_path / "gnir")
    (tmp_path / "gnir").symlink_to(tmp_path / "ring")
    told = limner(*words, "--out", out)
    assert told.status in (1, 2) and told.err.splitlines()[-1].startswith("limner: error: ")
    assert "Traceback" not in told.err and (tmp_path / "ring").is_symlink()
