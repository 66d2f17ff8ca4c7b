"""Where a module of one naming is in another: rows of a table, looked up by patterns."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

Naming = Literal["diffusers", "native", "processor"]
"""diffusers' module names; those of the model's authors; diffusers' before it took up peft."""

GROUP = r"(\d+)"
ATTENTION = re.compile(r"\.(?=to_[qkvo])")


@dataclass(frozen=True)
class KeyEntry:
    """One weight of the authors' model, and the module or modules that diffusers makes of it."""

    modules: tuple[str, ...]
    """diffusers' names; ``{}`` stands for a number."""
    native: str
    """The authors' name, with as many ``{}``."""
    shares: tuple[int, ...] = (1,)
    """Heights of the modules within the authors' weight, from the top, relative to each other."""
    halves_swapped: bool = False
    """The halves of its rows stand the other way round: (shift, scale) and (scale, shift). Only where there
    are two rows per column: a modulation of more than a shift and a scale stands alike in both."""
    fused_name: str = ""
    """What diffusers calls the authors' whole weight once it is fused (``fuse_qkv_projections``)."""

    def swaps(self, shape: tuple[int, int]) -> bool:
        """Whether halves must be swapped between the namings, of a weight of that shape (rows, columns)."""
        return self.halves_swapped and shape[0] == 2 * shape[1]


@dataclass(frozen=True)
class KeyMatch:
    """Where a name was found."""

    row: KeyEntry
    member: int | None
    """Which of the row's modules; None for the authors' whole weight."""
    numbers: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The row's modules in diffusers' names, numbers filled in."""
        return tuple(name.format(*self.numbers) for name in self.row.modules)


@dataclass(frozen=True)
class KeyStyle:
    """How a name stands in a file: prefix, naming, and whether dots became underscores."""

    prefix: str
    naming: Naming
    flat: bool = False

    def render(self, name: str) -> str:
        """A dotted name of this naming, as the file has it."""
        return self.prefix + (name.replace(".", "_") if self.flat else name)


@dataclass(frozen=True)
class KeyMap:
    """All rows of one part of a family."""

    rows: tuple[KeyEntry, ...] = field(repr=False)

    def find(self, name: str, style: KeyStyle) -> KeyMatch | None:
        """The place of ``name`` in a file, if it begins with the prefix and names a row of this table."""
        if not name.startswith(style.prefix):
            return None
        bare = name[len(style.prefix) :]
        for text, row, member in _names(self.rows, style.naming, style.flat).get(_digitless(bare), ()):
            if groups := _pattern(text).fullmatch(bare):
                return KeyMatch(row, member, groups.groups())
        return None

    def name_of(self, match: KeyMatch, naming: Naming) -> str:
        """The dotted name of a place. A row of several modules needs a member, but for the authors."""
        if naming == "native":
            return match.row.native.format(*match.numbers)
        name = match.row.modules[match.member or 0].format(*match.numbers)
        return _processor(name) if naming == "processor" else name


def _processor(name: str) -> str:
    return ATTENTION.sub(".processor.", name).removesuffix(".0" if ".to_out." in name else "\0")


def _digitless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _names_of(row: KeyEntry, naming: Naming) -> Iterator[tuple[str, int | None]]:
    if naming == "native":
        yield row.native, None if len(row.modules) > 1 else 0
    else:
        for member, name in enumerate(row.modules):
            yield (_processor(name) if naming == "processor" else name), member
        if row.fused_name and naming == "diffusers":
            yield row.fused_name, None


@cache
def _names(
    rows: tuple[KeyEntry, ...],
    naming: Naming,
    flat: bool,  # noqa: FBT001  a key of a cache
) -> dict[str, list[tuple[str, KeyEntry, int | None]]]:
    index: dict[str, list[tuple[str, KeyEntry, int | None]]] = {}
    for row in rows:
        for template, member in _names_of(row, naming):
            text = template.replace(".", "_") if flat else template
            index.setdefault(_digitless(text.replace("{}", "0")), []).append((text, row, member))
    return index


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(GROUP.join(re.escape(part) for part in name.split("{}")))


QKV = (1, 1, 1)


def unchanged(*names: str) -> tuple[KeyEntry, ...]:
    """Entries of modules that are called alike in both namings."""
    return tuple(KeyEntry((name,), name) for name in names)


def entries(names: Mapping[str, str], *, before: str = "", native: str = "") -> tuple[KeyEntry, ...]:
    """Entries of one module each, from diffusers' name to the authors', behind a prefix on each side."""
    return tuple(KeyEntry((before + name,), native + other) for name, other in names.items())


def fused(
    before: str, native: str, names: Iterable[str] = ("to_q", "to_k", "to_v"), whole: str | None = None
) -> KeyEntry:
    """Three modules that the authors keep as one weight, and what diffusers calls it once it is fused."""
    name = "" if whole is None else f"{before}.{whole}"
    return KeyEntry(tuple(f"{before}.{name}" for name in names), native, QKV, fused_name=name)
