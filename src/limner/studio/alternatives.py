"""What a plan offers instead, as changes that a button can make."""

import re
from collections.abc import Mapping
from typing import Any

from limner.planning.cards import CARDS
from limner.recipe import Recipe, aliases

THIS_MACHINE = "this machine"
SIZES = (8, 12, 16, 24, 32, 48, 80)
"""GB of cards that are offered without a name."""
HELD = 0.9
"""Share of a card that a run may hold, beside a desktop."""
GIGABYTES = re.compile(r"(\d+) GB")
OPTION = re.compile(r"--([a-z-]+) (-?[\w.]+)")
"""An option of the command line in what the planner proposes."""
CARD = re.compile(r"a card of (\d+ GB)")
RAM = re.compile(r"(\d+) GB of (?:RAM|memory).*")
WEIGHTS = {"bf16": "16bit", "fp16": "16bit", "fp32": "16bit", "int8": "8bit", "fp8": "8bit", "nf4": "4bit"}
"""How weights are stored -> ``limits.weights_precision``."""


def card_names() -> list[str]:
    """Devices that can be planned for: this one, cards by size, cards by name."""
    return [THIS_MACHINE, *(f"{size} GB" for size in SIZES), *sorted(card.name for card in CARDS)]


def card_options(card: str) -> list[str]:
    """What tells ``limner plan`` of a device."""
    if card == THIS_MACHINE:
        return []
    if match := GIGABYTES.fullmatch(card.strip()):
        return ["--vram", f"{match[1]}GB"]
    return ["--card", card]


def changes_of(text: str, row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(changes of the recipe by dotted path, the card to plan for instead) that a proposal means.

    Both are empty where no key says so: see :func:`hint`. What does not fit is planned for a card that has
    the memory.

    Args:
        text: In the planner's words: "--resolution 512", "weights nf4", "a card of 16 GB".
        row: What it says besides, of an alternative.
    """
    if row.get("batch"):
        return {"train.batch": row["batch"]}, ""
    if match := CARD.match(text):
        return {}, match[1]
    if match := RAM.match(text):
        return {"limits.ram": f"{match[1]}GB"}, ""
    if match := OPTION.search(text):
        value = int(match[2]) if re.fullmatch(r"-?\d+", match[2]) else match[2]
        return aliases.own({match[1].replace("-", "_"): value}, Recipe), ""
    kind = text.removeprefix("weights ")
    is_chosen = WEIGHTS.get(kind) == "16bit" or row.get("change", 0) < 0  # of others the plan takes the finer
    if text != kind and kind in WEIGHTS and is_chosen:
        return {"limits.weights_precision": WEIGHTS[kind]}, ""
    return {}, _card_for(row)


def hint(text: str) -> str:
    """What to do about an alternative that no key of a recipe asks for."""
    if text.startswith("weights "):
        bits = WEIGHTS.get(text.removeprefix("weights "), "8bit")
        return (
            "No key asks for it alone: the plan takes it where limits.weights_precision allows it "
            f'("{bits}") and limits.vram is too small for a finer one.'
        )
    return (
        "No key asks for it: the plan does so by itself where that is faster and fits, as on a larger card."
    )


def _card_for(row: Mapping[str, Any]) -> str:
    """The least card that holds an alternative which does not fit this one; empty for one that fits."""
    if row.get("fits", True) or not row.get("reserved_bytes"):
        return ""
    size = next((size for size in SIZES if HELD * size * 2**30 >= row["reserved_bytes"]), None)
    return f"{size} GB" if size else ""
