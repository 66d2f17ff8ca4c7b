import json

import pytest

from limner.cli import main
from limner.lora import file
from loras import denoiser

ABOUT = {"modelspec.architecture": "Qwen-Image/lora", "modelspec.title": "cat"}


@pytest.fixture
def lora(tmp_path):
    file.write(tmp_path / "cat.safetensors", {"transformer": denoiser("qwen-image")}, ABOUT)
    return tmp_path / "cat.safetensors"


def ran(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["lora", *map(str, arguments)])
    return left.value.code or 0  # pyright: ignore


def test_convert_writes_beside_the_file(lora, capsys) -> None:
    assert ran("convert", lora, "--to", "comfyui", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(lora.with_name("cat-comfyui.safetensors"))
    assert (told["modules"], told["family"], told["error"]) == (34, "qwen-image", 0)


def test_merge_resize_and_what_was_lost(lora, tmp_path, capsys) -> None:
    out = tmp_path / "m.safetensors"
    assert ran("merge", lora, lora, "--weight", "1", "--weight", "-0.5", "--out", out) == 0
    assert ran("resize", out, "--energy", "0.5", "--out", tmp_path / "s.safetensors") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("read back within 0.0e+00")
    assert lines[2].startswith("Lost of a module's change: ")


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (
            ["convert", "LORA", "--to", "a1111"],
            1,
            "No files are written for 'a1111'. Known: diffusers, comfyui",
        ),
        (["convert", "gone.safetensors", "--to", "kohya"], 1, "cannot be read"),
        (["convert", "LORA"], 2, "--to"),
        (["resize", "LORA"], 2, "There is no rule for the ranks"),
        (["resize", "LORA", "--rank", "4", "--energy", "0.9"], 2, "are two ways to choose ranks"),
        (["resize", "LORA", "--energy", "2"], 2, "must be between 0 and 1"),
        (["merge", "LORA", "--out", "x.safetensors"], 2, "There is 1 file to merge"),
        (
            ["merge-into-base", "LORA", "--base", "LORA", "--out", "x.safetensors"],
            1,
            "has no weight that Limner knows",
        ),
    ],
)
def test_bad_use_is_one_line(lora, capsys, arguments, status: int, reason: str) -> None:
    assert ran(*(str(lora) if each == "LORA" else each for each in arguments)) == status
    told = capsys.readouterr().err.strip().splitlines()
    assert reason in told[-1]
