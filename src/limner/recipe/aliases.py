"""Keys as other trainers spell them, read as ours; and an answer for those that have no counterpart.

The one place that does so: for recipe files, for ``--set``, and for keyword arguments in Python.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from limner.errors import BadRecipe
from limner.recipe import explain
from limner.recipe.spellings import (
    ABSENT,
    ALIASES,
    ALWAYS,
    INSTEAD,
    PLANNER_KEYS,
    READERS,
    SYNONYMS,
    TABLES,
    WORDS,
)

SPELLINGS = {spelling: key for key, words in ALIASES.items() for spelling in words.split()}
"""A spelling of another trainer -> our key."""

ANSWERS = {
    **dict.fromkeys(PLANNER_KEYS.split(), "The plan decides this, within [limits]: see `limner plan`."),
    **dict.fromkeys(ABSENT.split(), "Limner has no such setting. Remove it."),
    **{name: f"{answer} Remove the key." for answer, names in ALWAYS.items() for name in names.split()},
    **{
        name: " ".join(answer.split())
        for key, answer in INSTEAD.items()
        for name in (key, *SYNONYMS.get(key, "").split())
    },
}
"""A key of another trainer that has no counterpart -> what to do instead, in a sentence or two."""


@dataclass(frozen=True)
class Index:
    """The keys of a recipe, for looking up.

    Attributes:
        keys: Dotted path of every key.
        tables: Names of the tables.
        leaves: Last part of a path -> the paths that end so.
    """

    keys: frozenset[str]
    tables: tuple[str, ...]
    leaves: Mapping[str, tuple[str, ...]]


@cache
def index(root: type[BaseModel]) -> Index:
    """Look-up tables of a recipe's keys."""
    keys = list(explain.keys(root))
    leaves: dict[str, tuple[str, ...]] = {}
    for path in keys:
        leaf = path.rpartition(".")[2]
        leaves[leaf] = (*leaves.get(leaf, ()), path)
    return Index(frozenset(keys), explain.tables(root), leaves)


def find(path: str, root: type[BaseModel]) -> str:
    """Our key for ``path``: itself, a spelling of another trainer, or the name of a key that one table has.

    ``find("train.lr", Recipe) == find("unet_lr", Recipe) == "train.learning_rate"``.

    Raises:
        BadRecipe: There is none. The message says what to do instead where that is known, names a key that
            is spelled nearly so, or says where all keys are listed.
    """
    lookup = index(root)
    for spelling in (path, path.removesuffix("_")):  # for_ and with_, as Python has to spell them
        if spelling in lookup.keys:
            return spelling
        if spelling in SPELLINGS:
            return SPELLINGS[spelling]
    table, _, leaf = path.rpartition(".")
    top = not table or _foreign(table)
    if leaf in SPELLINGS and (top or (table in lookup.tables and leaf not in lookup.leaves)):
        return SPELLINGS[leaf]
    if top and len(lookup.leaves.get(leaf, ())) == 1:
        return lookup.leaves[leaf][0]
    raise BadRecipe(f"Unknown recipe key {path}. {answer(path, root)}")


def _foreign(table: str) -> bool:
    """Whether this is a table of another trainer's file, whose keys stand as if at the top of ours."""
    name = table.rpartition(".")[2]
    return name in TABLES.split() or name.endswith("_arguments")


def answer(path: str, root: type[BaseModel]) -> str:
    """What to do about a key that does not exist, in one or two sentences."""
    lookup = index(root)
    leaf = path.rpartition(".")[2]
    if path in lookup.tables:
        first = next(key for key in explain.keys(root) if key.startswith(f"{path}."))
        return f"[{path}] is a table. Name a key in it, such as {first}."
    for name in (path, leaf):
        if name in ANSWERS:
            return ANSWERS[name]
    if near := nearest(path, root):
        return f"Did you mean {near}?"
    return "No key is called nearly so. `limner init` writes a recipe with every key explained."


def nearest(path: str, root: type[BaseModel]) -> str:
    """The key that was probably meant: in the same table, else of the same name, else anywhere; else ""."""
    lookup = index(root)
    table, _, leaf = path.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in lookup.keys if key.rpartition(".")[0] == table}
    if not table:
        siblings |= {name: name for name in lookup.tables}
    for names in (siblings, {leaf: keys[0] for leaf, keys in lookup.leaves.items()}):
        if leaf in names:
            return names[leaf]
        if close := difflib.get_close_matches(leaf, sorted(names), n=1, cutoff=0.75):
            return names[close[0]]
    close = difflib.get_close_matches(leaf, sorted(SPELLINGS), n=1, cutoff=0.85)
    return f"{close[0]}, which is {SPELLINGS[close[0]]}" if close else ""


def own(values: Mapping[str, Any], root: type[BaseModel]) -> dict[str, Any]:
    """The same values under our own keys, by dotted path.

    Args:
        values: By dotted path or bare name, in anybody's spelling: ``{"lr": 1e-4, "lora.rank": 16}``. Values
            in other units or words are translated; those under keys of ours are not checked.
        root: The recipe.

    Raises:
        BadRecipe: A key that does not exist, two that mean the same, or a value that has no counterpart.
    """
    result: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path, value in _flat(values, root):
        key = find(path, root)
        if key in origins:
            raise BadRecipe(f"{origins[key]} and {path} both set {key}. Remove one of the two.")
        origins[key] = path
        result[key] = value if value is None else _read(path, key, value)
    return result


def _read(path: str, key: str, value: Any) -> Any:
    """A value in our units and words."""
    leaf = path.rpartition(".")[2]
    if path != key and leaf in READERS:
        value = READERS[leaf](value)
    return WORDS[key](value) if key in WORDS else value


def _flat(values: Mapping[str, Any], root: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The keys in tables of other trainers' files, as ``[network] linear = 16``, beside all others."""
    for path, value in values.items():
        if isinstance(value, Mapping) and _foreign(path) and path not in index(root).tables:
            yield from _flat({f"{path}.{leaf}": item for leaf, item in value.items()}, root)
        else:
            yield path, value


def nested(section: str, values: Mapping[Any, Any], root: type[BaseModel]) -> dict[str, Any]:
    """The values of a recipe, or of one table of it, under our own keys.

    Args:
        section: The table; "" for the recipe itself, whose tables may be mappings or built already.
        values: By key, as somebody wrote them; ``own`` says how.
        root: The recipe.

    Raises:
        BadRecipe: As ``own``, or a key belongs to another table.
    """
    prefix = f"{section}." if section else ""
    tables = () if section else index(root).tables
    result: dict[str, Any] = {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in tables:
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            result[key] = {}
            flat |= {f"{key}.{leaf}": item for leaf, item in value.items()}
        else:
            result[key] = value
    for path, value in own(flat, root).items():
        if not path.startswith(prefix):
            raise BadRecipe(f"{path} stands in [{section}], which is not its table. Move it.")
        table, _, leaf = path.removeprefix(prefix).rpartition(".")
        _table(result, table)[leaf] = value
    return result


def _table(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The table to write into; of one that was built already, a copy of what was set in it."""
    if not name:
        return result
    table = result.setdefault(name, {})
    if isinstance(table, BaseModel):
        table = table.model_dump(by_alias=True, exclude_unset=True)
        result[name] = table
    return table if isinstance(table, dict) else {}  # what is no table is refused with its own reason
