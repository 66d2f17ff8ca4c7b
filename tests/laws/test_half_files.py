"""Law 3 for every verb: killed while it writes, it leaves no half file behind once it has run again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limner import files
from limner.cli import main
from limner.files import DRAFT
from limner.lora import file
from loras import denoiser
from scribe import answers, captions, serving

KILLED = """
import os, signal, sys
from pathlib import Path
count, true = int(sys.argv[1]), Path.replace
def replace(self, target):
    global count
    count -= Path(target).name != "status.json"  # which a thread writes
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(self, target)
Path.replace = replace
from limner.cli.app import main
main(sys.argv[2:])
"""
GOOD = "a zorb in the morning"


def run_killed(words: list[str], where: Path, kill_at: int) -> None:
    """A verb in a process of its own, which dies as its ``kill_at``-th file is about to be put in place."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(kill_at), *words], cwd=where, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


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
    """A folder with pictures, a LoRA, and caches of its own; an ``old`` way of writing is none here."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    about = {"modelspec.architecture": "Qwen-Image/lora"}
    file.write(tmp_path / "cat.safetensors", {"transformer": denoiser("qwen-image")}, about)
    return tmp_path


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


@pytest.mark.parametrize(
    "words",
    [
        ["lora", "convert", "cat.safetensors", "--to", "comfyui"],
        ["lora", "merge", "cat.safetensors", "cat.safetensors", "--out", "both.safetensors"],
        ["lora", "resize", "cat.safetensors", "--rank", "1", "--out", "small.safetensors"],
        ["init", "photos", "--out", "own.toml"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_file_is_whole_or_not_there(place, words):
    killed_then_whole(words, place)
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
