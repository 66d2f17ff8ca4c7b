"""What becomes of each option: a book that rules write into, and nothing leaves unnoticed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limner.importing.options import ForeignOption

Outcome = Literal["kept", "translated", "the plan decides", "always so", "off", "cannot be had", "unknown"]
"""kept: the same value under our key. translated: another unit or word that does the same. always so: Limner
does it without being told. off: switched off there, absent here. unknown: a key of no trainer known here."""


@dataclass(frozen=True)
class ImportRow:
    """What became of one option.

    Attributes:
        key: Their key.
        value: Their value; None where the file is silent and the trainer has a default.
        outcome: See :data:`Outcome`.
        becomes: Our key and value, as a recipe has them; "" for none.
        note: Why that is equal, or what differs.
    """

    key: str
    value: Any
    outcome: Outcome
    becomes: str = ""
    note: str = ""


@dataclass
class Book:
    """Settings that no rule has matches yet, rows, and the values of the recipe."""

    options: list[ForeignOption]
    rows: list[ImportRow] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    """Our key -> value in our units."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What rules tell each other: the trainer, images, repeats, epochs, gradient accumulation."""

    def take(self, *leaves: str) -> list[ForeignOption]:
        """Settings with these last parts, in the order of the file; no other rule gets them."""
        matches = [option for option in self.options if option.leaf in leaves]
        self.options = [option for option in self.options if option.leaf not in leaves]
        return matches

    def peek(self, *leaves: str) -> Any:
        """The first value that is set under one of these last parts, which stay; None where there is none."""
        values = (option.value for leaf in leaves for option in self.options if option.leaf == leaf)
        return next((value for value in values if is_set(value)), None)

    def set(
        self,
        option: ForeignOption,
        assignments: Mapping[str, Any],
        note: str = "",
        *,
        outcome: Outcome = "translated",
    ) -> None:
        """An option becomes these values of ours."""
        self.changes |= assignments
        self.row(option, outcome, note, assignments)

    def row(
        self,
        option: ForeignOption,
        outcome: Outcome,
        note: str = "",
        assignments: Mapping[str, Any] | None = None,
    ) -> None:
        """A line of the table."""
        from limner.recipe.toml import write

        becomes = ", ".join(f"{key} = {write(value)}" for key, value in (assignments or {}).items())
        self.rows.append(ImportRow(option.key, option.value, outcome, becomes, note))

    def numbers(self, *leaves: str) -> Iterator[tuple[ForeignOption, float]]:
        """As :meth:`each`, with their numbers; those that say none get their row."""
        for option in self.each(*leaves):
            value = number(option.value)
            if value is None:
                self.row(option, "cannot be had", "It is no number.")
            else:
                yield option, value

    def each(self, *leaves: str) -> Iterator[ForeignOption]:
        """As :meth:`take`, without those that are switched off, which get their row."""
        for option in self.take(*leaves):
            if is_set(option.value):
                yield option
            else:
                self.row(option, "off")


def number(value: Any) -> float | None:
    """A finite number, or a text that says one; None of anything else."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) and not isinstance(value, bool) else None


def is_set(value: Any) -> bool:
    """Whether a value says anything: files that forms write are full of empty ones. Zero is a number."""
    return not (value is None or value is False or str(value).lower() in ("", "[]", "{}", "none", "null"))
