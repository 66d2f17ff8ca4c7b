"""The keys of a recipe: why a value cannot be, in one line, and keys as other trainers spell them.

The one place that reads those as ours, or answers where they have no counterpart: for recipe files, for
``--set``, and for keyword arguments in Python.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from limner.errors import BadRecipe
from limner.imports import imported
from limner.recipe.optimizers import OPTIMIZERS
from limner.recipe.spellings import (
    ABSENT,
    ALIASES,
    ALWAYS,
    INSTEAD,
    LIMITS_KEYS,
    PLANNER_KEYS,
    SYNONYMS,
    TABLES,
    VALUE_WORDS,
)

KINDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
}


def key_of(name: str, field: FieldInfo) -> str:
    """The key under which a field stands in a recipe file."""
    return field.alias or name


def keys(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every key below ``model`` by its dotted path; tables themselves are left out."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{key_of(name, field)}"
        table = _table(field)
        fields |= keys(table, f"{path}.") if table else {path: field}
    return fields


def _table(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def items(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """Every key below ``model`` that is a list of tables, by its dotted path -> what each of them is."""
    result: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{key_of(name, field)}"
        if table := _table(field):
            result |= items(table, f"{path}.")
        for kind in get_args(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                result[path] = kind
    return result


def tables(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys of ``model`` that are tables."""
    return tuple(key_of(name, field) for name, field in model.model_fields.items() if _table(field))


def first_error(model: type[BaseModel], section: str, values: Any, error: ValidationError) -> str:
    """The first thing that pydantic found wrong in ``values``, as one line with the remedy."""
    location = error.errors(include_url=False)[0]["loc"]
    if not location:
        return f"{section or 'The recipe'} is {shown(values)}; it must be a table."
    names = {key_of(name, field): name for name, field in model.model_fields.items()}
    key = str(location[0])
    name = names.get(key, key)
    field = model.model_fields[name]
    rule = model.model_json_schema()["properties"][key_of(name, field)]
    value = values.get(key, values.get(name))
    path = f"{section}.{key}" if section else key
    if "additionalProperties" in rule and len(location) > 1 and isinstance(value, Mapping):
        entry = str(location[1])  # of a table of patterns
        rule = rule["additionalProperties"]
        value, example = value.get(entry), next(iter((field.examples or [{}])[0].values()))
        return f'{path}["{entry}"] is {shown(value)}; it must be {expected(rule)}. Try {shown(example)}.'
    return f"{path} is {shown(value)}; it must be {expected(rule)}. {remedy(rule, field, value)}"


def shown(value: Any) -> str:
    """A value as it is written in TOML, cut to one short line."""
    if isinstance(value, BaseModel) or (isinstance(value, dict) and value):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def expected(rule: Mapping[str, Any]) -> str:
    """A JSON schema rule in words: ``{'type': 'integer', 'minimum': 1}`` is "a whole number, at least 1"."""
    if "anyOf" in rule:
        kinds = [kind for kind in rule["anyOf"] if kind.get("type") != "null"]
        return " or ".join(expected(kind) for kind in kinds)
    if "$ref" in rule:
        return "a table"
    if "enum" in rule:
        return f"one of {', '.join(rule['enum'])}"
    if "const" in rule:
        return shown(rule["const"])
    if rule.get("format") == "class":
        return 'a class by its dotted path ("package.Class")'
    if rule.get("format") == "path":
        return "a path"
    if rule.get("format") == "size":
        return '"auto" or a size of memory with its unit, from 1 byte to 1024 TB'
    if rule.get("type") == "array":
        return _list(rule)
    return ", ".join([KINDS[rule["type"]], *_bounds(rule)])


def _list(rule: Mapping[str, Any]) -> str:
    if "prefixItems" in rule:
        parts = [expected(item) for item in rule["prefixItems"]]
        return f"a list of {len(parts)}, each {parts[0]}"
    minimum = ", not empty" if rule.get("minItems") else ""
    return f"a list{minimum}, each item {expected(rule['items'])}"


def _bounds(rule: Mapping[str, Any]) -> list[str]:
    if "minimum" in rule and "maximum" in rule:
        return [f"from {rule['minimum']} to {rule['maximum']}"]
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
        "maxLength": "at most {} characters",
    }
    bounds = [text.format(rule[key]) for key, text in words.items() if key in rule]
    if rule.get("minLength"):
        bounds.append("not empty")
    if "pattern" in rule:
        bounds.append("1 to 100 characters that a file name may have, the first no dot")
    return bounds


def remedy(rule: Mapping[str, Any], field: FieldInfo, value: Any) -> str:
    """What to write instead: the near choice, the default, or an example."""
    choices = rule.get("enum") or rule.get("anyOf", [{}])[0].get("enum") or rule.get("items", {}).get("enum")
    if choices:
        words = value if isinstance(value, list | tuple) else [value]
        wrong = next((str(word) for word in words if word not in choices), str(value))
        near = difflib.get_close_matches(wrong, choices, n=1)
        word = near[0] if near else choices[0]
        right = shown([word] if rule.get("type") == "array" else word)
        return f"Did you mean {right}?" if near else f"Try {right}."
    if rule.get("items", {}).get("type") == "string" and isinstance(value, str) and value:
        return f"Try {shown([value])}."
    if field.examples and isinstance(field.examples[0], dict):
        entries = ", ".join(f"{shown(key)} = {shown(entry)}" for key, entry in field.examples[0].items())
        return f"Try {{{entries}}}, or leave it out."
    if field.examples:
        return f"Try {shown(field.examples[0])}, or leave it out."
    return f"Try {shown(field.default)}."


SET_SPELLINGS: Mapping[str, str] = {
    "num_repeats": "repeats",
    "dataset_repeat": "repeats",
    "loss_weight": "weight",
    "class_prompt": "class_word",
}
"""Keys of one of several datasets, as other trainers spell them -> ours in [[data.sets]]."""
SPELLINGS = {spelling: key for key, words in ALIASES.items() for spelling in words.split()}
"""A spelling of another trainer -> our key."""

ANSWERS = {
    **dict.fromkeys(PLANNER_KEYS.split(), "The plan decides this, within [limits]: see `limner plan`."),
    **{
        name: f"The plan decides this, and {answer}."
        for answer, names in LIMITS_KEYS.items()
        for name in names.split()
    },
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
        items: Path of a list of tables -> the keys of each of them.
        open_tables: Keys that are tables with names of a person's own, such as train.optimizer_args.
    """

    keys: frozenset[str]
    tables: tuple[str, ...]
    leaves: Mapping[str, tuple[str, ...]]
    items: Mapping[str, frozenset[str]]
    open_tables: tuple[str, ...]


@cache
def index(root: type[BaseModel]) -> Index:
    """Look-up tables of a recipe's keys."""
    paths = list(keys(root))
    leaves: dict[str, tuple[str, ...]] = {}
    for path in paths:
        leaf = path.rpartition(".")[2]
        leaves[leaf] = (*leaves.get(leaf, ()), path)
    lists = {path: frozenset(model.model_fields) for path, model in items(root).items()}
    open_tables = tuple(
        f"{path}." for path, field in keys(root).items() if get_origin(field.annotation) is dict
    )
    return Index(frozenset(paths), tables(root), leaves, lists, open_tables)


def find(path: str, root: type[BaseModel]) -> str:
    """Our key for ``path``: itself, a spelling of another trainer, or the name of a key that one table has.

    ``find("train.lr", Recipe) == find("unet_lr", Recipe) == "train.learning_rate"``.

    Raises:
        BadRecipe: There is none. The message says what to do instead where that is known, names a key that
            is spelled nearly so, or says where all keys are listed.
    """
    lookup = index(root)
    if fields := lookup.items.get(path.rpartition(".")[0]):
        return _of_item(path, fields)
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


def _of_item(path: str, fields: frozenset[str]) -> str:
    """A key of one of a list of tables: its own, or what other trainers call it."""
    table, _, leaf = path.rpartition(".")
    word = leaf if leaf in fields else SET_SPELLINGS.get(leaf, SPELLINGS.get(leaf, "")).rpartition(".")[2]
    if word in fields:
        return f"{table}.{word}"
    near = difflib.get_close_matches(leaf, sorted(fields), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(sorted(fields))}."
    raise BadRecipe(f"Unknown key {leaf} in [[{table}]]. {hint}")


def _foreign(table: str) -> bool:
    """Whether this is a table of another trainer's file, whose keys stand as if at the top of ours."""
    name = table.rpartition(".")[2]
    return name in TABLES.split() or name.endswith("_arguments")


def answer(path: str, root: type[BaseModel]) -> str:
    """What to do about a key that does not exist, in one or two sentences."""
    lookup = index(root)
    leaf = path.rpartition(".")[2]
    if path in lookup.tables:
        first = next(key for key in keys(root) if key.startswith(f"{path}."))
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
        if table := next((key for key in index(root).open_tables if path.startswith(key)), ""):
            result.setdefault(table[:-1], {})[path.removeprefix(table)] = value
            continue
        key = find(path, root)
        if key in origins:
            raise BadRecipe(f"{origins[key]} and {path} both set {key}. Remove one of the two.")
        origins[key] = path
        is_own = path == key and (key not in VALUE_WORDS.split() or value in _words(key, root))
        if value is None or is_own:
            result[key] = value
        else:
            result[key] = imported("limner.recipe.readers:read")(path, key, value)
    return result


@cache
def _words(key: str, root: type[BaseModel]) -> tuple[str, ...]:
    """Our words for the values of a key."""
    return (*get_args(keys(root)[key].annotation), *OPTIMIZERS)


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
        _entries(result, table)[leaf] = value
    return result


def _entries(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The table to write into; of one that was built already, a copy of what was set in it."""
    if not name:
        return result
    table = result.setdefault(name, {})
    if isinstance(table, BaseModel):
        table = table.model_dump(by_alias=True, exclude_unset=True)
        result[name] = table
    return table if isinstance(table, dict) else {}  # what is no table is refused with its own reason
