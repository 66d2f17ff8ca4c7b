"""Profiles of the registered bases that come with the package: a table of all bases traces nothing.

Of each base the one of its preset's LoRA at the square that it was made for, written by
``tools/base_profiles.py`` and held against a new trace by ``tests/planning/test_shipped.py``. Blocks that are
equal stand there once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limner.nn.memory.plan import Compute, Kind
from limner.planning.profile import Profile, from_json, to_json

SHIPPED_COMPUTE: Mapping[Kind, Compute] = {"cuda": "bf16", "cpu": "fp32"}
"""Kind of device -> the precision of the arithmetic that its profiles are of."""
FOLDER = Path(__file__).parent / "profiles"


def shipped_profile(base: str, kind: Kind) -> Profile | None:
    """The profile of a registered base on a device of a kind; None where none is shipped."""
    path = FOLDER / f"{base}-{kind}.json"
    return unpacked(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def packed(profile: Profile) -> dict[str, Any]:
    """A profile as JSON knows it, each block written once."""
    value = json.loads(json.dumps(to_json(profile)))
    sorts: list[Any] = []
    for block in value["blocks"]:
        if block not in sorts:
            sorts.append(block)
    return {**value, "blocks": sorts, "order": [sorts.index(block) for block in value["blocks"]]}


def unpacked(value: dict[str, Any]) -> Profile:
    """What :func:`packed` made."""
    blocks, order = value["blocks"], value["order"]
    for block in (*blocks, value["rest"]):  # the files were written before there was fp16
        block["weight_bytes"].setdefault("fp16", block["weight_bytes"]["bf16"])
    fields = {key: entry for key, entry in value.items() if key != "order"}
    return from_json({**fields, "blocks": [blocks[number] for number in order]})
