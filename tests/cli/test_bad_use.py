"""What a person may do wrong, typed as they would: one line with the remedy, status 1 or 2, no traceback.

``tests/laws/test_no_silence.py`` has the cases of the recipe; here are those of the machine around it.
"""

import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from limner.cli import main
from limner.cli.group import VERBS
from waiting import LONGEST

OPTIONS = ("--base", "base", "--resolution", "32", "--rank", "2", "--steps", "4", "--sample-every", "-1")


LOADED = 184
"""Modules of ours, packages included, that a process has loaded when it has trained the embedded base."""
NAMING_MODULES = """
import atexit, sys
ours = lambda: sorted(name for name in sys.modules if name.partition(".")[0] == "limner")
atexit.register(lambda: print(*ours()))
from limner.cli import main
main()
"""
ADVICE = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "PYTHONWARNINGS")
"""Variables that silence libraries or not: what a process says goes for where none is set."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tiny_base) -> Path:
    """A folder with a base, six captioned photos, and a run of four steps on them. Nothing may change it."""
    root = tmp_path_factory.mktemp("scene")
    shutil.copytree(tiny_base, root / "base")
    (root / "photos").mkdir()
    draw = np.random.default_rng(0)
    for number in range(6):
        noise = draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(root / "photos" / f"{number}.png")
        (root / "photos" / f"{number}.txt").write_text(f"a thing number {number}\n")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.chdir(root)
        patch.setenv("LIMNER_CACHE", str(root / "cache"))
        main(["train", "photos", *OPTIONS, "--out", "run"])
    assert left.value.code == 0
    return root


@pytest.fixture
def here(scene, tmp_path, monkeypatch) -> Path:
    """A copy of the scene to spoil, and the cache that goes with it."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "scene" / "cache"))
    return Path(shutil.copytree(scene, tmp_path / "scene"))


def typed(folder: Path, *arguments: str, environment: dict[str, str] | None = None):
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "limner", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )


@pytest.fixture
def refused(here, limner, monkeypatch) -> Callable[..., str]:
    """Run a command in this process that must fail; what it said last, on one line."""
    monkeypatch.chdir(here)

    def run(status: int, *arguments: str) -> str:
        done = limner(*arguments)
        assert done.status == status, done.err
        assert "Traceback" not in done.err
        *_, last = done.err.splitlines()
        assert last.startswith("limner: error: ")
        assert sum(line.startswith("limner: error: ") for line in done.err.splitlines()) == 1
        return last

    return run


def train(*more: str, target: str = "photos", out: str = "new") -> tuple[str, ...]:
    return ("train", target, *OPTIONS, "--out", out, *more)


# a base that lacks something --------------------------------------------------------------------------------

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_base_without_a_part(here, refused, part):
    shutil.rmtree(here / "base" / part)
    assert re.search(rf"{part}\b.* is missing.*[Cc]opy", refused(1, *train()))


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_base_without_weights_or_with_pickled_ones(here, refused, part):
    file = here / "base" / part / f"{WEIGHTS[part]}.safetensors"
    held = load_file(file)
    file.unlink()
    assert re.search(rf"{part}/ lacks {file.name}.*[Cc]opy", refused(1, *train()))
    torch.save(held, file.with_suffix(".bin"))
    assert re.search(rf"{part}/ holds pickled weights only.*never unpickles", refused(1, *train()))


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_base_of_nan(here, refused, part):
    file = here / "base" / part / f"{WEIGHTS[part]}.safetensors"
    save_file({name: value * torch.nan for name, value in load_file(file).items()}, file, {"format": "pt"})
    said = refused(1, *train())
    assert part in said and "finite" in said or "loss is nan" in said
    assert not (here / "new" / "metrics.jsonl").exists()


def test_a_base_without_configs(here, refused):
    for part in ("transformer", "text_encoder"):
        file = here / "base" / part / "config.json"
        text = file.read_text()
        file.unlink()
        assert part in refused(1, *train())
        file.write_text(text)
    (here / "base" / "model_index.json").unlink()
    assert "is not a base in diffusers layout" in refused(1, *train())


# folders ----------------------------------------------------------------------------------------------------


def test_a_run_among_its_images(here, refused):
    assert "its samples would be trained on" in refused(2, *train(out="photos"))
    assert "--out" in refused(2, *train(out="photos/run"))
    assert sorted(path.name for path in (here / "photos").iterdir())[0] == "0.png"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_folders_without_permission(here, refused):
    """Root may do everything, so it plays somebody else for a while."""
    importlib.import_module("limner.training.train")  # which nobody else may read, if root installed it
    (here / "new").mkdir()
    (here / "shut").mkdir()
    (here / "new").chmod(0o555)
    (here / "shut").chmod(0o000)
    root = os.geteuid() == 0
    for path in (here, *here.parents):
        if root and path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    if root:
        os.seteuid(65534)
    try:
        assert re.search(r"new cannot be used.*--out", refused(2, *train()))
        assert re.search(
            r"shut.* Permission denied. Check the path", refused(1, *train(target="shut", out="other"))
        )
    finally:
        if root:
            os.seteuid(0)
        (here / "shut").chmod(0o755)


# the disk ---------------------------------------------------------------------------------------------------


FOLDERS = {"step-000004.safetensors": "checkpoints/", ".draft.safetensors": "loras/"}


@pytest.mark.parametrize(
    "file", ["step-000004.safetensors", ".draft.safetensors", "metrics.jsonl", "report.html", "recipe.toml"]
)
def test_a_disk_that_fills_up(here, refused, limner, monkeypatch, file):
    """Each write of the run folder in turn finds no room; then there is room, and the run goes on."""
    whole_replace, whole_write = Path.replace, os.write

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace(draft: Path, path: Path) -> Path:
        return full() if Path(path).name == file else whole_replace(draft, path)  # pyright: ignore

    def write(handle: int, data: bytes) -> int:
        return (
            full()
            if file == "metrics.jsonl" and data.startswith(b'{"step": 2')
            else whole_write(handle, data)
        )  # pyright: ignore

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(os, "write", write)
        said = refused(1, *train())
    assert f"The disk filled up while writing new/{FOLDERS.get(file, '')}{file}. Free" in said
    assert not list((here / "new").rglob("*.part"))
    assert limner(*train()).status == 0
    mine, whole = (load_file(here / run / "lora.safetensors") for run in ("new", "run"))
    assert mine.keys() == whole.keys() and all(torch.equal(mine[name], whole[name]) for name in whole)


def test_a_cache_without_room(here, refused, limner, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(here / "other"))
    whole = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if str(here / "other") in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        assert re.search(r"The disk filled up while writing .*/other/.*Free", refused(1, *train()))
    assert limner(*train()).status == 0


# LoRA files -------------------------------------------------------------------------------------------------


def test_a_lora_of_another_base(here, refused):
    file = here / "run" / "lora.safetensors"
    held = {name.replace("blocks.0", "blocks.7"): value for name, value in load_file(file).items()}
    save_file(held, here / "other.safetensors", {"ss_sd_model_name": "base"})
    said = refused(1, "generate", "other.safetensors", "--prompt", "x", "--steps", "1")
    assert re.search(r"modules are not in this base.*Load it on the base it was trained on", said)


def test_a_lora_that_names_no_base_or_one_that_is_not_here(here, refused):
    held = load_file(here / "run" / "lora.safetensors")
    save_file(held, here / "other.safetensors")
    assert "Name it with --base" in refused(1, "generate", "other.safetensors", "--prompt", "x")
    save_file(held, here / "other.safetensors", {"ss_sd_model_name": "their-base"})
    assert "their-base" in refused(2, "generate", "other.safetensors", "--prompt", "x")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "0"),
        ("--images-per-prompt", "0"),
        ("--width", "-16"),
        ("--lora-scale", "nan"),
        ("--seed", "-1"),
    ],
)
def test_a_picture_that_cannot_be(refused, option, value):
    assert f"{option} is " in refused(2, "generate", "run", "--prompt", "x", option, value)


# what is said and not refused -------------------------------------------------------------------------------


def test_captions_that_are_too_long_are_said(here, limner, monkeypatch):
    monkeypatch.chdir(here)
    (here / "photos" / "1.txt").write_text("a long caption of a thing that goes on and on " * 5)
    done = limner(*train("--steps", "0"))
    assert done.status == 0
    assert re.search(r"1 of \d+ captions have more than the \d+ tokens that are read", done.err)


def test_pictures_without_words_are_said(here, limner, monkeypatch):
    monkeypatch.chdir(here)
    (here / "photos" / "1.txt").unlink()
    assert "1 of 6 images have no caption, and there is no trigger" in limner(*train("--steps", "0")).err
    said = limner(*train("--steps", "0", "--trigger", "sks", out="b")).err
    assert '1 of 6 images have no caption: training sees "sks" alone' in said


def test_the_cache_says_what_it_left_out(here, limner, monkeypatch):
    monkeypatch.chdir(here)
    (here / "photos" / "1.png").write_bytes(b"")
    assert "Left out: 1.png: is empty" in limner("cache", "photos", *OPTIONS, "--out", "new").err


def test_a_placeholder_without_a_trigger_is_said(here, limner, monkeypatch):
    monkeypatch.chdir(here)
    (here / "photos" / "1.txt").write_text("[trigger] on a beach")
    assert "Set data.trigger" in limner(*train("--steps", "0")).err


# several processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_training_holds_the_folder_and_sigterm_saves_it(here, limner, monkeypatch):
    monkeypatch.chdir(here)
    first = subprocess.Popen(
        [sys.executable, "-m", "limner", *train("--steps", "100000", "--save-every", "100000")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = here / "new" / "metrics.jsonl"
    deadline = time.monotonic() + LONGEST
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    done = limner(*train())
    assert done.status == 1
    assert f"new is in use: process {first.pid} on " in done.err and "--out" in done.err
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=LONGEST)
    assert (first.returncode, out) == (1, "")
    stopped = re.search(
        r"Stopped at step (\d+) of 100000; saved\. Go on with: limner train new$", err.strip()
    )
    assert stopped, err
    step = int(stopped[1])
    go_on = limner("train", "new", "--steps", str(step + 2), "--json")
    assert go_on.status == 0, go_on.err
    assert f"Going on from step {step}." in go_on.err
    assert json.loads(go_on.out)["steps"] == step + 2


@pytest.fixture(scope="module")
def own_process(scene) -> subprocess.CompletedProcess[str]:
    """What a process that trains on the embedded base writes; the last line names our modules in it."""
    command = [sys.executable, "-c", NAMING_MODULES, *train("--base", "glyph", out="again")]
    environment = {name: value for name, value in os.environ.items() if name not in ADVICE}
    done = subprocess.run(
        command,
        cwd=scene,
        env=environment | {"LIMNER_CACHE": str(scene / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_process_says_nothing_but_its_own_words(scene, own_process):
    """No advice of libraries, no bars of theirs, no warnings: each line is one that Limner wrote."""
    known = r"(Base: |\d+ images, |Tracing a step of |Training 4/4, |Read: |Cache: |Caching |Generating |All)"
    environment = {name: value for name, value in os.environ.items() if name not in ADVICE}
    command = ("generate", "run", "--prompt", "x", "--steps", "1", "--out", "again/p")
    done = typed(scene, *command, environment=environment | {"LIMNER_CACHE": str(scene / "cache")})
    assert done.returncode == 0, done.stderr
    for text in (own_process.stderr, done.stderr):
        assert [line for line in text.splitlines() if not re.match(known, line)] == []


def test_a_process_that_trains_loads_few_modules_of_ours(own_process):
    """One verb, one family and the methods that the recipe names, besides what every run needs."""
    *_, names = own_process.stdout.splitlines()
    assert len(names.split()) <= LOADED, "\n".join(names.split())
    families = {match[1] for match in re.finditer(r"limner\.models\.(\w+)\.\w+", names)}
    verbs = {path.partition(":")[0].rpartition(".")[2] for path in VERBS.values()}
    assert families == {"flux"}
    assert verbs & {match[1] for match in re.finditer(r"limner\.cli\.(\w+)", names)} == {"train"}


def test_a_gpu_without_memory_is_told_in_a_line(limner, verb, tmp_path):
    class OutOfMemoryError(RuntimeError):
        """Named as torch's own."""

    def train(*_):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 8 GiB")

    verb("runs", train=train)
    (tmp_path / "photos").mkdir()
    out = limner("train", tmp_path / "photos")
    assert out.status == 1 and "Traceback" not in out.err
    assert "The GPU has no memory left: CUDA out of memory. Tried to allocate 2.00 GiB. Close" in out.err
    verb("runs", train=lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        limner("train", tmp_path / "photos")
