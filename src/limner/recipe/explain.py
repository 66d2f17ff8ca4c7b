"""Why a value cannot be, in one line: its full name, what it is, what it must be, what to try."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

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
    choices = rule.get("enum") or rule.get("items", {}).get("enum")
    if choices:
        words = value if isinstance(value, list | tuple) else [value]
        wrong = next((str(word) for word in words if word not in choices), str(value))
        near = difflib.get_close_matches(wrong, choices, n=1)
        word = near[0] if near else choices[0]
        right = shown([word] if rule.get("type") == "array" else word)
        return f"Did you mean {right}?" if near else f"Try {right}."
    if rule.get("items", {}).get("type") == "string" and isinstance(value, str) and value:
        return f"Try {shown([value])}."
    if field.examples:
        return f"Try {shown(field.examples[0])}, or leave it out."
    return f"Try {shown(field.default)}."
