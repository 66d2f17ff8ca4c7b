"""What captions cost: list prices as data, an estimate before, a sum after. An unknown model has no price."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from limner.captions.catalog import PROVIDERS

_DATE_SUFFIX = re.compile(r"(?:-latest|-\d{8}|-\d{4}-\d{2}-\d{2})$")
PIXELS_PER_TOKEN = 750
"""Anthropic's rule for images (docs, vision): width x height / 750. Others are near: OpenAI's patches of 32
x 32 pixels give about 1 token per 1024 pixels, times a factor of each model."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English text."""
OLD_AFTER_DAYS = 90
"""Prices change a few times a year; an older list is said to be old."""
CENT = 0.005
"""US dollars below which an amount would round to nothing."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    read: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """US dollars for so many tokens."""
        return (self.read * tokens_in + self.output * tokens_out) / 1e6


@cache
def _table() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "prices.json").read_text(encoding="utf-8"))


def source() -> str:
    """Where the prices are from, and when."""
    return f"{_table()['source']}, {_table()['date']}"


def age_note(today: date) -> str:
    """A warning where the list of prices is older than 90 days; else empty."""
    days = (today - date.fromisoformat(f"{_table()['date']}-01")).days
    return f", {days} days old: look at the maker's price list" if days > OLD_AFTER_DAYS else ""


def price_of(model: str) -> Price | None:
    """The list price of a model by the name that its maker gives it, dated or not; None when unknown."""
    prices: dict[str, Sequence[float]] = dict(_table()["models"])
    for record in PROVIDERS.values():
        prices |= record.prices
    price = prices.get(model) or prices.get(_DATE_SUFFIX.sub("", model))
    return Price(*price) if price else None


def tokens_of(characters: int, pixels: int = 0) -> int:
    """About how many tokens a text and pictures are, read."""
    return round(characters / CHARACTERS_PER_TOKEN + pixels / PIXELS_PER_TOKEN)


def dollars(amount: float | None) -> str:
    """For people: ``dollars(0.034) == "$0.03"``, ``dollars(0.0004) == "less than $0.01"``."""
    if amount is None:
        return "an unknown price"
    return "less than $0.01" if 0 < amount < CENT else f"${amount:.2f}"


def foretold(model: str, estimate: float | None) -> str:
    """An estimate in US dollars as a line for people, with where the prices are from."""
    if estimate is None:
        return f"Price: unknown for {model}."
    age = age_note(date.today())
    qualifier = "" if 0 < estimate < CENT else "about "
    return f"Price: {qualifier}{dollars(estimate)}, from the sizes of images and texts ({source()}{age})."
