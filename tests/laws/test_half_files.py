"""Law 3 for every verb: killed while it writes, it leaves no half file behind once it has run again."""

import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image

from encoders import save_clip
from launching.machines import profile_at_hand
from limner import files
from limner.cli import main
from limner.cli.app import app
from limner.files import DRAFT
from limner.hyper.predictor import FILE, Predictor, PredictorConfig
from limner.hyper.targets import Target
from limner.lora import file
from loras import denoiser
from scribe import answers, captions, serving

GOOD = "a zorb in the morning"
TOLD = "told.txt"
"""What a child that was not killed has to say."""


def run_killed(words: list[str], where: Path, kill_at: int) -> None:
    """A verb in a copy of this process, which dies as its ``kill_at``-th file is about to be put in place."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            die_at(kill_at)
            os.chdir(where)
            main(words)
        except BaseException:  # noqa: BLE001  whatever it is, nobody else would hear of it
            (where / TOLD).write_text(traceback.format_exc())
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == -signal.SIGKILL, (where / TOLD).read_text()[-2000:]


def die_at(count: int) -> None:
    """Have this process kill itself so."""
    for name in ("replace", "rename", "hardlink_to"):
        true = getattr(Path, name)

        def put(self, target, true=true):
            nonlocal count
            count -= Path(target if true.__name__ != "hardlink_to" else self).name != "status.json"
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return true(self, target)

        setattr(Path, name, put)


def run(words: list[str], where: Path) -> None:
    """The verb as another process, this one, runs it afterwards: as if it had written nothing so far."""
    files._remove_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.chdir(where)
        main(words)
    assert left.value.code in (0, 1), words  # 1: check found faults


def drafts(where: Path) -> list[Path]:
    return [path for path in where.rglob(".*") if DRAFT.fullmatch(path.name)]


def files_in(where: Path) -> dict[str, bytes]:
    return {str(p.relative_to(where)): p.read_bytes() for p in sorted(where.rglob("*")) if p.is_file()}


def killed_then_whole(words: list[str], where: Path, kill_at: int = 1) -> None:
    run_killed(words, where, kill_at)
    assert drafts(where), "the kill came before there was anything to leave"
    run(words, where)
    assert drafts(where) == []


@pytest.fixture
def place(tmp_path, photos, monkeypatch):
    """A folder with pictures, a LoRA, and caches of its own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    about = {"modelspec.architecture": "Qwen-Image/lora"}
    file.write(tmp_path / "cat.safetensors", {"transformer": denoiser("qwen-image")}, about)
    return tmp_path


ONE = ("--set", "sample.steps=1")
CHECK = ["check", "photos", "--base", "./nowhere", "--resolution", "64", "--out", "page"]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 11])
def test_a_mended_copy_is_whole_or_not_there(place, kill_at):
    run([*CHECK, "--fix", "mended"], place)
    whole = files_in(place / "mended")
    assert "fixed.json" in whole and len(whole) == 13
    words = [*CHECK, "--fix", "again"]
    run_killed(words, place, kill_at)
    assert not (place / "again").exists()
    run(words, place)
    again = files_in(place / "again")
    assert again.pop("fixed.json") and whole.pop("fixed.json") and again == whole
    assert drafts(place) == []


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory) -> Path:
    """A base, photos, and a run of four steps with a LoRA of each second."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_base, root / "base")
    (root / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((48, 48), 90 + number).convert("RGB").save(root / "photos" / f"{number}.png")
        (root / "photos" / f"{number}.txt").write_text(f"a thing number {number}")
    save_clip(root / "clip")
    words = ("--base", "base", "--resolution", "32", "--rank", "2", "--steps", "4", "--sample-every", "-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(root / "cache"))
        run(["train", "photos", *words, "--trigger", "zorb", "--save-every", "2", *ONE, "--out", "run"], root)
    torch.manual_seed(0)
    targets = tuple(Target(f"transformer_blocks.0.attn.{name}", 32, 32) for name in ("to_k", "to_q"))
    Predictor(PredictorConfig(base="tiny", targets=targets, rank=2, width=16, bottleneck=4, side=32)).save(
        root / "predictor" / FILE, {}
    )
    (root / "kohya.toml").write_text('pretrained_model_name_or_path = "sdxl"\ntrain_data_dir = "photos"\n')
    return root


CAT = "cat.safetensors"
WRITES: dict[str, list[str]] = {
    "init": ["init", "photos", "--out", "own.toml"],
    "import": ["import", "kohya.toml", "--out", "own.toml"],
    "cache": ["cache", "photos", "--base", "base", "--resolution", "32", "--out", "other"],
    "generate": ["generate", "run", "--prompt", "zorb", "--steps", "1", "--out", "pictures"],
    "judge": [*("judge", "run", "--steps", "last", "--strengths", "1", "--seeds", "1"), "--encoder", "clip"],
    "judge, choose": ["judge", "run", "--choose", "2"],
    "export": ["export", "run", "--step", "2", "--out", "out.safetensors"],
    "export, to": ["export", "run", "--step", "2", "--to", "comfyui"],
    "publish": ["publish", "run", "--to", "ada/cat", "--dry-run", "hub"],
    "publish, civitai": ["publish", "run", "--civitai", "civitai"],
    "launch": ["launch", "run", "--gpu", "H100", "--dry-run"],
    "instant pictures": ["instant", "photos", "--base", "base", "--predictor", "predictor"],
    "lora convert": ["lora", "convert", CAT, "--to", "comfyui"],
    "lora merge": ["lora", "merge", CAT, CAT, "--out", "both.safetensors"],
    "lora resize": ["lora", "resize", CAT, "--rank", "1", "--out", "small.safetensors"],
}
ELSEWHERE = {
    **dict.fromkeys(("check", "caption"), "below"),
    **dict.fromkeys(("train", "demo", "instant train"), "tests/laws/test_killed.py: one way to train"),
    **dict.fromkeys(("jobs add", "jobs again", "jobs remove", "studio"), "tests/jobs, tests/studio"),
    "instant bias": "trains, and copies files by the function of all",
    **dict.fromkeys(("plan", "doctor"), "keeps what it measures as train does"),
    "fetch": "the hub's own library writes",
    "lora merge-into-base": "tests/lora/test_into_base.py: atomic_folder",
    "lora extract": "writes as lora resize does",
    "ask": "one file of a few bytes, by the function of all",
    **dict.fromkeys(("schema", "runs", "status", "lora info", "instant eval"), "writes nothing"),
    **dict.fromkeys(("jobs list", "jobs log", "jobs stop"), "writes nothing"),
}


def test_every_verb_is_held_or_its_reason_is_there() -> None:
    verbs: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    names = {
        " ".join((name, *inner)).strip()
        for name, verb in verbs.items()
        for inner in ([(below,) for below in getattr(verb, "commands", ())] or [()])
    }
    assert {name.partition(",")[0] for name in WRITES} | ELSEWHERE.keys() == names


@pytest.mark.parametrize("name", WRITES)
def test_a_file_is_whole_or_not_there(place, trained, name, monkeypatch):
    profile_at_hand(monkeypatch)
    if WRITES[name][0] not in ("lora", "init"):
        shutil.copytree(trained, place, dirs_exist_ok=True)
    killed_then_whole(WRITES[name], place)
    assert drafts(place) == []


@pytest.mark.slow
def test_caption_and_review_clear_what_they_left(place):
    for path in (place / "photos").glob("*.txt"):
        path.unlink()
    with serving(answers(captions(GOOD))) as scribe:
        words = ["caption", "photos", "--with", "openai", "--url", f"{scribe.url}/v1", "--model", "m"]
        killed_then_whole([*words, "--trigger", "zorb"], place)
        run([*words, "--trigger", "zorb"], place)  # nothing to write, and still clean
    assert drafts(place) == []
    os.environ.pop("VISUAL", None)
    killed_then_whole(["caption", "photos", "--review"], place)
