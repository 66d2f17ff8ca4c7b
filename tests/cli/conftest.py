import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limner.cli import main
from limner.events import Done


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def limner(capsys, monkeypatch, tmp_path) -> Callable[..., Outcome]:
    """Run the command line in an empty folder; its status and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three images in ``photos/``."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def verb(monkeypatch) -> Callable[..., types.ModuleType]:
    """Put a fake in place of ``limner.<name>``, so that no test here needs torch."""

    def fake(name: str, **members: Any) -> types.ModuleType:
        module = types.ModuleType(f"limner.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    return fake


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
