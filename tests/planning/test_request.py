"""A kept profile is found by all of the recipe that it depends on."""

from dataclasses import fields, replace
from typing import Any

import pytest

from limner.assembly.base import ResolvedBase, Shape
from limner.models.bundled import known
from limner.models.facts import Objective
from limner.planning.request import ProfileRequest
from limner.recipe.schema import Recipe
from limner.recipe.toml import change

OTHERS: dict[str, Any] = {
    "time_density": "uniform",
    "time_shift": 2.0,
    "guidance": 3.5,
    "prediction": "v",
    "min_snr": 5.0,
    "noise_offset": 0.1,
    "zero_terminal_snr": True,
    "noise_range": [0.2, 0.8],
    "loss": "huber",
    "huber_c": 0.2,
    "huber_schedule": "constant",
}


def asked(changes: dict[str, Any] | None = None) -> ProfileRequest:
    recipe = change(Recipe(), {"base": "sdxl", **(changes or {})})
    shape = Shape(8, 1024)
    base = ResolvedBase(recipe=recipe, source=known("sdxl"), shape=shape, kind="cuda", compute="bf16")
    return ProfileRequest(base, (1024, 1024))


@pytest.mark.parametrize("key", [field.name for field in fields(Objective)])
def test_every_option_of_the_objective_is_part_of_the_key(key: str) -> None:
    if key == "distill_steps":
        student = {"train.objective": "distill"}
        assert asked(student).facts != asked().facts != asked({**student, "distill.steps": 8}).facts
        return
    if key == "mask_floor":
        masked = asked({"data.masks": "alpha"}).facts
        assert masked != asked().facts
        assert masked == asked({"data.masks": "sidecar", "train.mask_floor": 0.5}).facts, "it shapes no trace"
        return
    needs = {"train.loss": "huber"} if key.startswith("huber") else {}
    assert asked({**needs, f"train.{key}": OTHERS[key]}).facts != asked(needs).facts


def test_so_are_size_device_precision_and_the_shape_of_the_lora() -> None:
    plain = asked()
    assert asked({"lora.rank": 4}).facts != plain.facts != asked({"train.method": "full"}).facts
    assert asked({"sample.width": 512}).facts != plain.facts
    for other in ({"size": (512, 512)}, {"whole": True}, {"on_host": True}, {"matmul_precision": "8bit"}):
        assert replace(plain, **other).facts != plain.facts
    for other in ({"kind": "cpu"}, {"compute": "fp32"}):
        assert replace(plain, base=replace(plain.base, **other)).facts != plain.facts


def test_so_are_the_sizes_of_a_predictor() -> None:
    predictor = {"train.method": "instant", "train.batch": 4, "instant.group": 4}
    plain = asked(predictor).facts
    assert asked({**predictor, "instant.bottleneck": 99}).facts != plain
    assert asked({**predictor, "instant.encoders": ["siglip2"]}).facts != plain
    assert asked({**predictor, "instant.group": 2, "instant.static_steps": 5}).facts == plain


def test_what_changes_no_trace_is_no_part_of_it() -> None:
    others = {"train.learning_rate": 1e-3, "train.steps": 7, "seed": 3, "data.trigger": "sks"}
    assert asked(others).facts == asked().facts
