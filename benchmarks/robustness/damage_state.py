"""Damaged recipes, and damage to what Limner itself wrote: cache, checkpoints, run folder."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.robustness.damage import ALIEN, SPOILS_OF_FILES, Case, Spoil, every, folder, locked, write
from safetensors.torch import load_file, save_file

from limner.training import checkpoint

# recipes ----------------------------------------------------------------------------------------------------

VALUES = {
    "lora.rank": ("0", "-1", "1e3", '"16"', "99999999999999999999", "nan", "[16]", "true", "{}"),
    "lora.alpha": ("0.0", "-2.0", "nan", "inf", '"x"'),
    "lora.targets": ('""', "[]", "3", '["no.such.layer"]', '"no-such-group"', '[""]', '["["]'),
    "lora.dropout": ("1.0", "-0.1", "nan"),
    "lora.text_encoders": ('["text_encoder_9"]', '"text_encoder"', "[1]", '["../../etc"]'),
    "train.steps": ("-1", "1.5", '"many"', "nan"),
    "train.batch": ("0", "100000000000000"),
    "train.learning_rate": ("0", "nan", "inf", "-1e-4", "1e300", '"fast"'),
    "train.betas": ("[0.9]", "[0.9, 1.0]", "[0.9, nan]", "0.9"),
    "train.optimizer": ('"sgd"', "1"),
    "train.warmup": ("6", "-1"),
    "train.method": ('"half"',),
    "train.time_shift": ("0.0", "nan", '"some"'),
    "train.save_every": ("0",),
    "train.keep": ("0",),
    "seed": ("-1", "9223372036854775808", "1.0"),
    "base": ('""', '"no-such-base"', '"a/b/c"', '"/nowhere"', '"\\u0000"', '"photos"', '"../../../etc"'),
    "name": ('""', '"a/b"', '".."', '"a\\u0000b"', '"' + "n" * 300 + '"'),
    "concept_type": ('"pet"',),
    "data.images": ('"nowhere"', '""', '"a\\u0000b"', "3", '"recipe.toml"', '"' + "d" * 5000 + '"'),
    "data.resolution": ("0", "-32", "8", "1000000", "32.5"),
    "data.caption_dropout": ("1.5", "nan"),
    "data.validation_count": ("6", "1000000"),
    "data.validation_images": ('"nowhere"',),
    "data.min_side": ("0", "100000"),
    "data.cache": ('"recipe.toml"', '"a\\u0000b"', '"/proc/nowhere"'),
    "data.trigger": ("3", '"' + "t" * 300 + '"'),
    "sample.prompts": ("[1]", '"a"', '[""]'),
    "sample.prompt_file": ('"nowhere.txt"', '"photos"', '"photos/1.png"', '"a\\u0000b"'),
    "sample.steps": ("0", "1000000"),
    "limits.device": ('"cuda"', '"tpu"'),
    "limits.compute_dtype": ('"fp8"',),
    "limits.micro_batch": ("0",),
    "track.with": ('["wandb"]', '["mlflow"]'),
    "train.stesp": ("4",),
    "lora": ("3",),
    "nonsense": ("1",),
}
TEXTS = {
    "not TOML": "base = glyph",
    "an open string": 'base = "glyph',
    "a key twice": "seed = 1\nseed = 2",
    "10,000 brackets": "seed = " + "[" * 10_000,
    "a huge number": "seed = 1" + "0" * 10_000,
    "a date": "seed = 1979-05-27",
    "NUL": "seed = 1\0",
    "not UTF-8": 'name = "\udcff"',
    "two byte order marks": '\ufeff\ufeffname = "x"',  # one is what Windows writes, and is read
}


FRESH = ("train", "recipe.toml", "--out", "other")


def recipes() -> Iterator[Case]:
    """Values that mean nothing, and files that are no recipe."""
    for key, values in VALUES.items():
        for value in values:
            word = key.rpartition(".")[2]
            yield Case(
                "recipe",
                f"{key} = {value[:30]}",
                "recipe.toml",
                setting(key, value),
                (word, "Base ", "recipe.toml", "File name too long", *[value.strip('"')] * (len(value) > 5)),
                FRESH,
            )
    for name, text in TEXTS.items():
        text_spoil = write(text.encode("utf-8", "surrogateescape"))
        yield Case("recipe", name, "recipe.toml", text_spoil, ("recipe.toml",), FRESH)
    alone = (*FRESH, "--base", "./base")
    # A recipe of zero or one bytes is TOML, and means all defaults.
    fit = {name: spoil for name, spoil in ALIEN.items() if name not in ("empty", "a folder")}
    yield from every("recipe", "recipe.toml", ("recipe.toml",), fit | {"a folder": folder}, verb=alone)


def setting(key: str, value: str) -> Spoil:
    """Set one key of a recipe file, whose tables are those that ``toml.dump`` writes."""

    def spoil(path: Path, draw: random.Random) -> None:
        table, _, word = key.rpartition(".")
        lines = path.read_text().splitlines()
        tables = [n for n, line in enumerate(lines) if line.startswith("[")]
        start = lines.index(f"[{table}]") + 1 if table else 0
        stop = min((n for n in tables if n >= start), default=len(lines))
        if key == "lora":
            start, stop = 0, tables[0]
        section_lines = [line for line in lines[start:stop] if not line.startswith(f"{word} =")]
        path.write_text("\n".join([*lines[:start], f"{word} = {value}", *section_lines, *lines[stop:]]))

    return spoil


# the cache --------------------------------------------------------------------------------------------------


def tensors(change: Callable[[dict[str, Any], dict[str, str]], None]) -> Spoil:
    """Write a safetensors file again with other contents, and a header that is as good as before."""

    def spoil(path: Path, draw: random.Random) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        weights = load_file(path)
        change(weights, facts)
        save_file(weights, path, metadata=facts)

    return spoil


def header(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Write a safetensors file again with another JSON header."""

    def spoil(path: Path, draw: random.Random) -> None:
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        table = json.loads(data[8 : 8 + length])
        table_spoil = change(table)
        text = json.dumps(table if table_spoil is None else table_spoil).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return spoil


def length(value: int) -> Spoil:
    """Let the header claim a length."""

    def spoil(path: Path, draw: random.Random) -> None:
        path.write_bytes(struct.pack("<Q", value) + path.read_bytes()[8:])

    return spoil


def first(table: dict[str, Any]) -> dict[str, Any]:
    """The entry of the first tensor."""
    return next(entry for name, entry in table.items() if name != "__metadata__")


HEADERS: dict[str, Spoil] = {
    "a header of 2^63 bytes": length(1 << 63),
    "a header of 0 bytes": length(0),
    "a header that is a list": header(lambda table: []),
    "no metadata": header(lambda table: table.pop("__metadata__") and None),
    "a shape of 2^60": header(lambda table: first(table).update(shape=[1 << 60])),
    "a negative shape": header(lambda table: first(table).update(shape=[-1])),
    "offsets outside the file": header(lambda table: first(table).update(data_offsets=[0, 1 << 40])),
    "an unknown type": header(lambda table: first(table).update(dtype="F7")),
}


def forget(weights: dict[str, Any], facts: dict[str, str]) -> None:
    """The first tensor is lost."""
    weights.pop(next(iter(weights)))


def nans(weights: dict[str, Any], facts: dict[str, str]) -> None:
    """Every floating tensor becomes NaN."""
    for name, value in weights.items():
        if value.is_floating_point():
            weights[name] = torch.full_like(value, float("nan"))


CACHED: dict[str, Spoil] = {
    "another format version": tensors(lambda weights, facts: facts.update(format="2")),
    "another address": tensors(lambda weights, facts: facts.update(address="0" * 64)),
    "NaN": tensors(nans),
    "another type": tensors(
        lambda weights, facts: weights.update({k: v.double() for k, v in weights.items()})
    ),
    "another tensor": tensors(lambda weights, facts: weights.update({k: v[:0] for k, v in weights.items()})),
}


MESSAGES = ("Cache entry", "1 to compute")
"""A link to nothing is no entry, and is computed like any other that is not there."""


def caches() -> Iterator[Case]:
    """Damaged entries of the cache: computed again, and said."""
    resume_command = ("train", "run")
    ways = ALIEN | SPOILS_OF_FILES | HEADERS | CACHED
    for name, spoil in ways.items():
        yield Case("cache", name, "CACHE", spoil, MESSAGES, resume_command)
    for turn in range(8):
        yield Case(
            "cache",
            f"a flipped bit, {turn}",
            "CACHE",
            SPOILS_OF_FILES["a flipped bit"],
            MESSAGES,
            ("cache", "run"),
        )


# checkpoints ------------------------------------------------------------------------------------------------

NEWEST = "run/checkpoints/step-000004.safetensors"


def state(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Spoil:
    """A checkpoint with a good checksum whose contents are wrong, as another program might write it."""

    def spoil(path: Path, draw: random.Random) -> None:
        parts, facts = checkpoint.load(path)
        change(parts, facts)
        path.unlink()
        checkpoint.save(path, parts, facts)

    return spoil


def note(change: Callable[[str], str]) -> Spoil:
    """A checkpoint with another note in its header."""
    return header(
        lambda table: table["__metadata__"].update(
            {checkpoint.ENTRY: change(table["__metadata__"][checkpoint.ENTRY])}
        )
    )


def nan_weights(parts: dict[str, Any], facts: dict[str, Any]) -> None:
    """Weights that are NaN."""
    parts["weights"] = {
        model: {name: torch.full_like(value, float("nan")) for name, value in weights_names.items()}
        for model, weights_names in parts["weights"].items()
    }


STATES: dict[str, Spoil] = {
    "another format version": note(lambda text: "2" + text[1:]),
    "version 10^30": note(lambda text: "1" + "0" * 30 + text[1:]),
    "a digest of another": note(lambda text: "1 " + "0" * 64 + text[66:]),
    "a note of one word": note(lambda text: "1"),
    "no weights": state(lambda parts, facts: parts.pop("weights") and None),
    "weights that are a number": state(lambda parts, facts: parts.update(weights=3)),
    "weights of no model": state(lambda parts, facts: parts.update(weights={})),
    "weights that are text": state(lambda parts, facts: parts.update(weights={"transformer": {"a": "b"}})),
    "NaN weights": state(nan_weights),
    "no optimizer": state(lambda parts, facts: parts.pop("optimizer") and None),
    "an optimizer that is a list": state(lambda parts, facts: parts.update(optimizer=[1])),
    "an optimizer of no groups": state(lambda parts, facts: parts["optimizer"].update(param_groups=[])),
    "an optimizer without state": state(lambda parts, facts: parts["optimizer"].pop("state") and None),
    "moments that are text": state(
        lambda parts, facts: parts["optimizer"].update(state={n: {"exp_avg": "x"} for n in range(40)})
    ),
    "no facts": state(lambda parts, facts: facts.clear()),
    "a step that is text": state(lambda parts, facts: facts.update(step="four")),
    "the state of another step": state(lambda parts, facts: facts.update(step=2)),
    "another base": state(lambda parts, facts: facts.update(base="other")),
    "another shape of LoRA": state(lambda parts, facts: facts.update(lora={"rank": 99})),
}


def checkpoints() -> Iterator[Case]:
    """Damaged checkpoints: the one before is taken, and it is said, or the run is refused with the remedy."""
    weights_names, resume_command = ("step-000004",), ("train", "run")
    yield from every("checkpoint", NEWEST, weights_names, ALIEN | HEADERS | STATES, verb=resume_command)
    for turn in range(6):
        for name, spoil in SPOILS_OF_FILES.items():
            yield Case("checkpoint", f"{name}, {turn}", NEWEST, spoil, weights_names, resume_command)


# the run folder ---------------------------------------------------------------------------------------------


def run_files() -> Iterator[Case]:
    """Damage to the other files of a run."""
    resume_command = ("train", "run")
    odd = {name: ALIEN[name] for name in ("a folder", "a link to itself", "unreadable", "random bytes")}
    yield from every("run folder", "run/recipe.toml", ("recipe.toml", "run"), odd, verb=resume_command)
    for name in (
        "run/metrics.jsonl",
        "run/data.json",
        "run/cache/index.json",
        "run/lora.safetensors",
        "run/report.html",
    ):
        fit = {k: v for k, v in odd.items() if k == "a folder" or name == "run/metrics.jsonl"}
        yield from every("run folder", name, (Path(name).name,), fit, verb=resume_command)
    rows = {
        "rows of NaN": write(b'{"step": NaN}\n{"step": 1e999, "loss": Infinity}\n'),
        "rows of text": write(b'{"step": 1, "loss": "low"}\n{"step": 2, "held_out": [1]}\n'),
        "a row of 10^400": write(b'{"step": 1' + b"0" * 400 + b', "loss": 1}\n'),
        "100,000 brackets": write(b"[" * 100_000 + b"\n"),
        "half a row": write(b'{"step": 1, "loss": 1.0}\n{"step": 2, "lo'),
    }
    yield from every("run folder", "run/metrics.jsonl", ("metrics.jsonl",), rows, verb=resume_command)
    plain = {"a file": write(b"x"), "unreadable": locked}
    for name in ("run/checkpoints", "run/cache"):
        yield from every("run folder", name, (name,), plain, verb=resume_command)
    show = (*resume_command, "--sample-every", "0")
    yield from every(
        "run folder", "run/samples", ("Samples at step", "samples"), {"a file": write(b"x")}, verb=show
    )
    yield from every(
        "run folder",
        "run/lock",
        ("run",),
        {"a folder": folder, "a link to itself": ALIEN["a link to itself"]},
        verb=resume_command,
    )
    yield from every("run folder", "run/lock.json", ("lock.json",), {"a folder": folder}, verb=resume_command)
    yield Case("run folder", "a file", "run", write(b"x"), ("run",))
