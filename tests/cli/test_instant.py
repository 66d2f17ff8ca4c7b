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


def test_verbs_on_predictors_ask_their_rooms(monkeypatch, tmp_path, capsys):
    from limner.training import bias, predictor_eval

    report = predictor_eval.EvalReport(
        styles=2,
        images=8,
        base_loss=1.0,
        loss=0.6,
        gain=0.4,
        gain_interval=(0.3, 0.5),
        shuffle_gap=0.5,
        best_of_own="2 of 2",
        variance_ratio=0.2,
        by_style={"a": (1.0, 0.6)},
    )
    calls: list = []

    def evaluate(*arguments):
        calls.append(arguments[:-1])
        return report

    def train_bias(*arguments):
        calls.append(arguments[:-1])
        return tmp_path / "bias.safetensors"

    monkeypatch.setattr(predictor_eval, "evaluate_predictor", evaluate)
    monkeypatch.setattr(bias, "train_bias", train_bias)
    assert (
        _status(
            ["instant", "eval", "p", "styles", "--expert", "fine", "--expert", "bias", "--references", "2"]
        )
        == 0
    )
    assert "gain 0.4000 (0.3000 to 0.5000)" in capsys.readouterr().out
    options = predictor_eval.EvalOptions(
        base="glyph", styles=Path("styles"), experts=(Path("fine"), Path("bias")), references=2
    )
    assert calls.pop() == (Path("p"), options)
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    prompts = str(tmp_path / "prompts.txt")
    assert _status(["instant", "bias", "coarse.safetensors", "--prompts", prompts, "--images", "6"]) == 0
    assert "--experts coarse,bias" in capsys.readouterr().out
    wanted = bias.BiasOptions(base="glyph", prompts=("a cat", "a dog"), images=6)
    assert calls.pop() == ([Path("coarse.safetensors")], Path("experts"), wanted)
    assert _status(["instant", "bias", "a.safetensors", "--prompts", str(tmp_path / "none.txt")]) != 0
    assert "there is no such file" in capsys.readouterr().err


def test_a_picture_called_as_a_verb_is_named_with_its_folder(calls):
    assert _status(["instant", "./train", "--base", "glyph"]) == 0
    assert calls[0][0] == [Path("train")]
