import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from limner.errors import BadData, RunBusy, Stopped
from limner.events import CacheFilled


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


# several processes, and the cache ----------------------------------------------------------------------


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
