"""Recipes to launch, machines that they were planned for, and a SkyPilot that is not there."""

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limner.launching.choose import MachinePlan
from limner.launching.clouds import Gpus
from limner.planning import planner
from limner.planning.shipped import shipped_profile
from limner.recipe import Data, Recipe, Sample, Train
from limner.recipe.toml import change
from limner.target import template

MACHINE = MachinePlan(
    gpus=Gpus("H100"),
    cloud="",
    price=None,
    hours=0.51,
    reserved=20 * 2**30,
    memory=24,
    disk=120,
    gated=False,
)


def recipes(folder: Path) -> dict[str, Recipe]:
    """Three recipes whose files are in a folder."""
    for name in ("photos", "more"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "prompts.txt").write_text("a hat\n")
    (folder / "start.safetensors").write_bytes(b"")
    photos = folder / "photos"
    return {
        "plain": Recipe(name="My Cat!", base="glyph", data=Data(images=photos, cache=folder / "cache")),
        "spot": Recipe.model_validate(
            {
                "name": "face",
                "base": "flux-dev",
                "data": Data(images=photos, trigger="sks"),
                "train": Train(batch=4, optimizer="prodigy", learning_rate=1.0, init="someone/lora"),
                "track": {"with": ("wandb",)},
            }
        ),
        "two": Recipe(
            name="style",
            base="sdxl",
            data=Data(images=photos, validation_images=folder / "more"),
            train=Train(batch=2, init=str(folder / "start.safetensors")),
            sample=Sample(prompt_file=folder / "prompts.txt"),
        ),
    }


@dataclass
class Row:
    """A line of SkyPilot's catalogue."""

    cloud: str
    accelerator_name: str
    accelerator_count: float
    price: float
    spot_price: float = float("nan")
    memory: float | None = 64


def catalogue(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Row] | Exception) -> list[dict[str, Any]]:
    """Put a SkyPilot in place whose catalogue has these rows, or fails; what it was asked for."""
    calls: list[dict[str, Any]] = []

    def list_accelerators(**keys: Any) -> dict[str, list[Row]]:
        calls.append(keys)
        if isinstance(rows, Exception):
            raise rows
        table: dict[str, list[Row]] = {}
        for row in rows:
            table.setdefault(row.accelerator_name, []).append(row)
        return table

    module = types.ModuleType("sky.catalog")
    vars(module).update(list_accelerators=list_accelerators)
    monkeypatch.setitem(sys.modules, "sky.catalog", module)
    return calls


def without_skypilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SkyPilot, on whatever machine this runs."""
    monkeypatch.setitem(sys.modules, "sky.catalog", None)


def toy(folder: Path, **changes: Any) -> Recipe:
    """A recipe on the embedded base, by its preset, of which the profile is shipped."""
    (folder / "photos").mkdir(exist_ok=True)
    start = {"base": "glyph", "name": "My Cat!", "data.images": folder / "photos", "train.batch": 2}
    return change(template(start), changes)


def profile_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner takes the shipped profile of the embedded base: nothing is traced here."""
    profile = shipped_profile("glyph", "cuda")
    monkeypatch.setattr(planner, "profile_of", lambda request, tell: profile)
