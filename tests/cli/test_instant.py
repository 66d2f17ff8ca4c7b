import json
from dataclasses import asdict
from pathlib import Path

import pytest

import limner
from limner import prediction
from limner.cli.app import _status
from limner.prediction import InstantOptions, InstantReport

REPORT = InstantReport(
    lora=Path("a.safetensors"),
    predictor="glyph-instant",
    images=2,
    layers=55,
    rank=4,
    energy=0.95,
    similarity=0.9,
    seconds=1.25,
)


@pytest.fixture
def calls(monkeypatch) -> list:
    """What the verb was called with."""
    seen: list = []

    def instant(*arguments):
        seen.append(arguments[:-1])
        return REPORT

    monkeypatch.setattr(prediction, "instant", instant)
    return seen


def test_the_command_line_and_python_ask_the_same(calls, capsys):
    words = "instant a.png b.png --base glyph --out a.safetensors --rank 4 --strength 0.8 --to comfyui"
    assert _status(words.split()) == 0
    assert "rank 4, 55 layers, from 2 pictures, 95.0% of the energy kept" in capsys.readouterr().out
    limner.instant(["a.png", Path("b.png")], out="a.safetensors", rank=4, strength=0.8, tool="comfyui")
    limner.instant("photos")
    options = InstantOptions(rank=4, strength=0.8, tool="comfyui")
    wanted = ([Path("a.png"), Path("b.png")], "glyph", Path("a.safetensors"), options)
    plain = ([Path("photos")], "glyph", Path("instant.safetensors"), InstantOptions())
    assert calls == [wanted, wanted, plain]


def test_json_is_the_report(calls, capsys):
    assert _status(["instant", "a.png", "--base", "glyph", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(REPORT) | {"lora": "a.safetensors"}
    assert _status(["instant", "a.png", "--rank", "0", "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "BadUsage"
    assert _status(["instant"]) == 2
