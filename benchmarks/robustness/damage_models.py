"""Damaged LoRA files, given to ``generate``, and damaged bases, given to ``train``."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.robustness.damage import ALIEN, SPOILS_OF_FILES, Case, Spoil, every, write
from benchmarks.robustness.damage_state import HEADERS, forget, nans, tensors


def rename(state: dict[str, Any], facts: dict[str, str]) -> None:
    """Modules that the base does not have."""
    for name in list(state):
        state[name.replace("transformer.", "transformer.other_")] = state.pop(name)
    facts.pop("modelspec.hash_sha256", None)


def reshape(state: dict[str, Any], facts: dict[str, str]) -> None:
    """Factors of another width."""
    for name, value in state.items():
        state[name] = torch.zeros(value.shape[0] + 3, value.shape[1] + 3)
    facts.pop("modelspec.hash_sha256", None)


def loras() -> Iterator[Case]:
    """Damaged LoRA files, given to ``generate``."""
    paint = (
        "generate",
        "lora.safetensors",
        "--prompt",
        "a thing",
        "--steps",
        "1",
        "--base",
        "base",
        "--out",
        "pictures",
    )
    wrong = {
        "NaN": tensors(nans),
        "modules of another base": tensors(rename),
        "shapes of another base": tensors(reshape),
        "half a pair": tensors(forget),
        "the names of kohya": tensors(
            lambda state, facts: state.update({"lora_unet_a.alpha": torch.ones(2, 2)})
        ),
    }
    headers = {name: spoil for name, spoil in HEADERS.items() if name != "no metadata"}  # which is no damage
    yield from every(
        "lora",
        "lora.safetensors",
        ("lora.safetensors",),
        ALIEN | SPOILS_OF_FILES | headers | wrong,
        verb=paint,
    )
    for turn in range(6):
        yield Case(
            "lora",
            f"a flipped bit, {turn}",
            "lora.safetensors",
            SPOILS_OF_FILES["a flipped bit"],
            ("lora.safetensors",),
            paint,
        )


def config(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """A JSON file with something changed."""

    def spoil(path: Path, draw: random.Random) -> None:
        table = json.loads(path.read_text())
        change(table)
        path.write_text(json.dumps(table))

    return spoil


def bases() -> Iterator[Case]:
    """Damaged bases. Their weights have no checksum: only what can be seen to be wrong is tried on them."""
    fresh = ("train", "recipe.toml", "--out", "other")
    spoils_some = {
        name: ALIEN[name]
        for name in ("empty", "random bytes", "a web page", "a folder", "a link to itself", "unreadable")
    }
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2")
    for part in parts:
        file = (
            "diffusion_pytorch_model.safetensors" if part in ("transformer", "vae") else "model.safetensors"
        )
        spoils_torn = {
            "a renamed pickle": ALIEN["a renamed pickle"],
            "cut short": SPOILS_OF_FILES["cut short"],
            "NaN": tensors(nans),
        }
        yield from every("base", f"base/{part}/{file}", (part,), spoils_some | spoils_torn, verb=fresh)
        yield from every(
            "base",
            f"base/{part}/config.json",
            (part,),
            {**spoils_some, "a list": write(b"[]"), "no keys": write(b"{}")},
            verb=fresh,
        )
        spoil_lost = tensors(forget)
        yield from every("base", f"base/{part}/{file}", (part,), {"a lost tensor": spoil_lost}, verb=fresh)
    for part in ("tokenizer", "tokenizer_2"):
        yield from every("base", f"base/{part}/tokenizer.json", (part,), spoils_some, verb=fresh)
    yield from every(
        "base",
        "base/model_index.json",
        ("base",),
        {**spoils_some, "another pipeline": write(b'{"_class_name": "X"}')},
        verb=fresh,
    )
    yield from every(
        "base",
        "base/scheduler/scheduler_config.json",
        ("scheduler",),
        {**spoils_some, "text": config(lambda t: t.update(shift="x"))},
        verb=fresh,
    )
    facts = {
        "a list": write(b"[]"),
        "a resolution of text": config(lambda table: table.update(resolution="big")),
        "a resolution of -5": config(lambda table: table.update(resolution=-5)),
        "a text length of 10^9": config(lambda table: table.update(text_length=10**9)),
        "a text length of text": config(lambda table: table.update(text_length="long")),
    }
    yield from every(
        "base", "base/limner.json", ("limner.json", "resolution", "text_length"), facts, verb=fresh
    )
