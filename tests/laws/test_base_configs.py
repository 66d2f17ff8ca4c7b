"""Law: whatever the configs of a base say, a verb does its work or ends in one line that names the base."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limner import api
from limner.errors import BadBase, BadRecipe, BadUsage, Diverged, DoesNotFit, LimnerError
from small import wish

VALUES = (None, "x", -1, 0, [], {}, 10**9, 1.5, True, "../../x", [None], ["diffusers", "utils"], {"a": {}})
CODE = {
    "auto_map": {"AutoModel": "../evil.X", "AutoTokenizer": ["../evil.X", None]},
    "quantization_config": {"quant_method": "no_such_package"},
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": 5,
    "dtype": "nonsense",
    "_class_name": "NoSuchClass",
    "model_type": "no_such_type",
    "architectures": "NoSuchClass",
    "tokenizer_class": ["x"],
}
FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in ("transformer", "vae", "text_encoder", "text_encoder_2")),
    *(f"{part}/tokenizer_config.json" for part in ("tokenizer", "tokenizer_2")),
)
TOLD = (DoesNotFit, BadBase, BadRecipe, BadUsage, Diverged)


def mutations(base: Path) -> list[tuple[str, str, Any]]:
    """(file, key, value): every key of every config, and keys that name code, each with several values."""
    draw = random.Random("configs of a base")
    cases: list[tuple[str, str, Any]] = []
    for file in FILES:
        keys = json.loads((base / file).read_text())
        cases += [(file, key, value) for key in sorted(keys) for value in draw.sample(VALUES, 4)]
        cases += [(file, key, value) for key, value in CODE.items()]
    draw.shuffle(cases)
    return cases


def verbs(base: Path, photos: Path, out: Path) -> dict[str, Callable[[], object]]:
    data = {"resolution": 32, "min_side": 16}  # check goes by the family's where the base cannot be opened
    recipe = wish(base, photos, data=data, train={"steps": 1, "batch": 1}, sample={"every": -1})
    lora = out / "cat.safetensors"
    shown = {"base": str(base), "steps": 1, "width": 32, "height": 32}
    return {
        "plan": lambda: api.plan(recipe),
        "check": lambda: api.check(recipe, out=out / "page"),
        "train": lambda: api.train(recipe, out=out / "run"),
        "generate": lambda: api.generate(lora, ["a thing"], out=out / "pictures", **shown),
    }


def told(act: Callable[[], object]) -> str:
    """ "" where it works; else the one line. Anything but an error of Limner's goes through."""
    try:
        act()
    except LimnerError as error:
        assert isinstance(error, TOLD), repr(error)
        assert "\n" not in str(error) and len(str(error)) < 1000
        return str(error)
    return ""


@pytest.fixture(scope="module")
def lora(tiny_base, tmp_path_factory):
    """A LoRA of one step on the base, as it is."""
    from PIL import Image

    home = tmp_path_factory.mktemp("trained")
    (home / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (48, 48), (90 * number, 20, 20)).save(home / "photos" / f"{number}.png")
    done = api.train(wish(tiny_base, home / "photos", train={"steps": 1, "batch": 1}), out=home / "run")
    assert done.lora
    return done.lora


def try_out(cases: list[tuple[str, str, Any]], tiny_base: Path, photos: Path, lora: Path, where: Path) -> int:
    """How many of the verbs refused. One that raises anything else fails the test by itself."""
    refusals = 0
    for file, key, value in cases:
        base = shutil.copytree(tiny_base, where / "base", copy_function=os.link)
        table = json.loads((base / file).read_text())
        (base / file).unlink()  # it is a link
        (base / file).write_text(json.dumps({**table, key: value}))
        out = where / "out"
        out.mkdir()
        shutil.copy(lora, out / "cat.safetensors")
        for name, act in verbs(base, photos, out).items():
            try:
                refusals += bool(told(act))
            except Exception as error:
                error.add_note(f"{name}, with {key} = {value!r} in {file}")
                raise
        shutil.rmtree(base)
        shutil.rmtree(out)
    return refusals


def test_some_mutations_of_configs_are_told(tiny_base, photos, lora, tmp_path):
    assert try_out(mutations(tiny_base)[:6], tiny_base, photos, lora, tmp_path) >= 4


@pytest.mark.slow
def test_many_mutations_of_configs_are_told(tiny_base, photos, lora, tmp_path):
    cases = mutations(tiny_base)
    assert len(cases) > 400
    assert try_out(cases[6:12], tiny_base, photos, lora, tmp_path) >= 4
