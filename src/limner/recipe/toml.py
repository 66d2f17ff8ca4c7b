"""Recipe files: TOML to a recipe and back, exactly; changes from the command line; the file of prompts."""

import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.errors import BadRecipe
from limner.files import human, real_path, user_path
from limner.imports import imported
from limner.recipe import aliases
from limner.recipe.contradictions import OWNERS
from limner.recipe.fields import Section
from limner.recipe.schema import DataSet, ImagePair, Recipe

if TYPE_CHECKING:
    from limner.recipe.prompt_file import PromptLine

PATHS = (
    *("data.images", "data.validation_images", "data.control", "data.masks", "data.cache"),
    *("prior.images", "sample.prompt_file", "sample.control", "instant.encoder_folder", "instant.experts"),
)
NAMES = ("base", "components_from", "train.init", "train.adapter", "sample.base")
"""Keys that may name something here or on the hub."""
WIDTH = 100
LARGEST = 1_000_000
"""Bytes."""


def load(path: Path) -> Recipe:
    """Read a recipe file. Relative paths in it start at its own folder.

    Raises:
        BadRecipe: The file is missing, unreadable, not UTF-8, not TOML, or means nothing.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadRecipe(f"{path} has {human(size)}, which no recipe has. Name the recipe.")
        text = path.read_bytes().decode("utf-8-sig")  # Windows begins texts with a mark
    except FileNotFoundError as error:
        raise BadRecipe(f"There is no recipe {path}. `limner init` writes one.") from error
    except UnicodeDecodeError as error:
        raise BadRecipe(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise BadRecipe(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error
    try:
        return parse(text, real_path(path).parent)
    except BadRecipe as error:
        raise BadRecipe(f"{path}: {error}") from error


def parse(text: str, root: Path | None = None) -> Recipe:
    """Read a recipe from TOML text.

    Args:
        text: TOML.
        root: Folder where relative paths start, as does a base that begins with ".". ``None`` leaves them.

    Raises:
        BadRecipe: The text is not TOML, or means nothing.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise BadRecipe(f"Not TOML: {error}. Strings stand in double quotes, tables as [train].") from error
    recipe = Recipe.model_validate(table)
    return recipe if root is None else placed(recipe, root)


def placed(recipe: Recipe, root: Path) -> Recipe:
    """The same recipe with every relative path made absolute from ``root``, and "~" from the home folder."""
    changes: dict[str, Any] = {}
    if recipe.data.sets:
        changes["data.sets"] = tuple(_placed_set(entry, root) for entry in recipe.data.sets)
    if recipe.pairs:
        changes["pairs"] = tuple(_placed_pair(pair, root) for pair in recipe.pairs)
    for path in PATHS[1:] if recipe.data.sets or recipe.pairs else PATHS:
        value = get(recipe, path)
        if isinstance(value, tuple):
            changes[path] = tuple(_absolute(root, item) for item in value)
        elif isinstance(value, Path):
            changes[path] = _absolute(root, value)
    for key in NAMES:
        name = get(recipe, key)
        is_path = name.startswith(("./", "../", "~")) or name in (".", "..")
        if is_path or (name.endswith(".safetensors") and not _on_hub(root, name)):
            changes[key] = str(_absolute(root, Path(name)))
    return change(recipe, changes)


def _placed_pair(pair: ImagePair, root: Path) -> ImagePair:
    """A pair with absolute paths."""
    paths = {key: getattr(pair, key) for key in ("before", "after")}
    return pair.model_copy(update={key: _absolute(root, path) for key, path in paths.items() if path})


def _placed_set(entry: DataSet, root: Path) -> DataSet:
    """One of several sets with absolute paths."""
    paths = {key: getattr(entry, key) for key in ("images", "validation_images", "masks")}
    changes: dict[str, Any] = {
        key: _absolute(root, path) for key, path in paths.items() if isinstance(path, Path)
    }
    return entry.model_copy(
        update={**changes, "control": tuple(_absolute(root, path) for path in entry.control)}
    )


def _on_hub(root: Path, name: str) -> bool:
    """Whether a name is of a file on the hub, owner/name/file.safetensors, and not of one here."""
    return name.count("/") == 2 and not name.startswith("/") and not (root / name).exists()


def _absolute(root: Path, path: Path) -> Path:
    # Path.resolve would follow links, and so tie a recipe to where a link points today.
    return Path(*_without_dots(root.absolute() / user_path(path)))


def _without_dots(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return parts


def get(recipe: Recipe, path: str) -> Any:
    """The value at a dotted path: ``get(recipe, "lora.rank") == 16``. Spellings of other trainers count.

    Raises:
        BadRecipe: There is no such key.
    """
    value: Any = recipe
    for key in aliases.find(path, Recipe).split("."):
        value = _items(value)[key]
    return value


def _items(part: Section) -> dict[str, Any]:
    """The values of one table under the keys of the file."""
    return {
        aliases.key_of(name, field): getattr(part, name) for name, field in type(part).model_fields.items()
    }


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The same recipe with other values at some dotted paths, checked again; ``None`` unsets a key.

    Keys may be spelled as other trainers spell them: ``change(recipe, {"lr": 1e-4})``.

    Raises:
        BadRecipe: An unknown key, an impossible value or a contradiction.
    """
    table = recipe.model_dump(by_alias=True)
    for path, value in aliases.own(changes, Recipe).items():
        *above, key = path.split(".")
        inner = table
        for name in above:
            inner = inner[name]
        inner[key] = value
    return Recipe.model_validate(table)


def settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` assignments as values by dotted path.

    Values are TOML: ``train.steps=800``, ``sample.prompts=["a cat"]``, ``data.flip=true``. What is no TOML
    is a string, so ``base=flux-dev`` needs no quotes. ``key=`` unsets a key that may be unset; where it may
    not, it is the empty string.

    Returns:
        Values by dotted path, under our own keys whatever spelling was typed.

    Raises:
        BadRecipe: An assignment without "=", an unknown key, or two that mean the same.
    """
    values = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        path = path.strip()
        if not equals:
            raise BadRecipe(f"The setting {assignment!r} has no value. Write it as key=value: lora.rank=16.")
        values[path] = _value(path, value.strip())
    return aliases.own(values, Recipe)


def _value(path: str, text: str) -> Any:
    field = aliases.keys(Recipe)[aliases.find(path, Recipe)]
    if not text:
        return None if field.default is None else ""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if len(table) > 1 or (field.annotation in (str, Path) and not isinstance(table["value"], str)):
        return text
    return table["value"]


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every set key written out. ``parse(dump(recipe)) == recipe``, always.

    A table for another method or objective is left out: it holds defaults, which a later version may change,
    and would then refuse as set.

    Raises:
        BadRecipe: A path is not Unicode, and so cannot be written.
    """
    lines = [
        f"{key} = {write(value)}" for key, value in _items(recipe).items() if not isinstance(value, Section)
    ]
    for table, part in _items(recipe).items():
        owner = OWNERS.get(table)
        is_idle = owner is not None and getattr(recipe.train, owner) != table
        if isinstance(part, Section) and not is_idle:
            lines += ["", f"[{table}]"]
            lines += [
                f"{key} = {write(value)}"
                for key, value in _items(part).items()
                if value is not None and not _are_tables(value)
            ]
            lines += _tables(table, part)
    return "\n".join(lines) + "\n"


def _are_tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Section)


def _tables(table: str, part: Section) -> list[str]:
    """The lists of tables of a table, which stand after its keys: [[data.sets]]."""
    lines: list[str] = []
    for key, value in _items(part).items():
        for entry in value if _are_tables(value) else ():
            lines += ["", f"[[{table}.{key}]]"]
            lines += [f"{name} = {write(item)}" for name, item in _items(entry).items() if item is not None]
    return lines


def write(value: Any) -> str:
    """One value as TOML: str, Path, bool, int, float, or a list of these."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case Section():
            return write({key: item for key, item in _items(value).items() if item is not None})
        case dict():
            return f"{{{', '.join(f'{write(str(key))} = {write(item)}' for key, item in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(write(item) for item in value)}]"
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecipe(f"The path {text!r} is not Unicode. Rename the folder or the file.") from error
    # JSON escapes are TOML escapes, but for DEL, which JSON leaves bare.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def commented(recipe: Recipe, sources: Mapping[str, str] | None = None) -> str:
    """The recipe as a file to edit: every key, with what it means and, where known, where its value is from.

    Keys that are unset stand as comments with an example. ``parse(commented(recipe)) == recipe``.

    Args:
        recipe: What to write.
        sources: Where a value is from, by dotted path.
    """
    lines = ["# A recipe for Limner. `limner train` on this file starts the run, or goes on with it.", ""]
    items = _items(recipe).items()
    lines += _commented(
        [(key, value) for key, value in items if not isinstance(value, Section)], "", sources or {}
    )
    for table, part in items:
        if isinstance(part, Section):
            lines += [f"# {(part.__doc__ or '').strip()}", f"[{table}]"]
            rows = [(key, value) for key, value in _items(part).items() if not _are_tables(value)]
            lines += _commented(rows, f"{table}.", sources or {})
            lines += [*_tables(table, part)[1:], ""] if _tables(table, part) else []
    return "\n".join(lines).rstrip() + "\n"


def _commented(items: list[tuple[str, Any]], prefix: str, sources: Mapping[str, str]) -> list[str]:
    fields = aliases.keys(Recipe)
    lines = []
    for key, value in items:
        field = fields[prefix + key]
        lines += [f"# {line}" for line in textwrap.wrap(" ".join((field.description or "").split()), WIDTH)]
        if prefix + key in sources:
            lines += textwrap.wrap(
                f"Here: {sources[prefix + key]}", WIDTH, initial_indent="# ", subsequent_indent="#   "
            )
        lines.append(
            f"# {key} = {write(example(prefix + key))}" if value is None else f"{key} = {write(value)}"
        )
        lines.append("")
    return lines


def example(path: str) -> Any:
    """A possible value of a key that is unset by default, for instance 1024 for ``data.resolution``."""
    examples = aliases.keys(Recipe)[path].examples
    assert examples, path  # each key that may be unset has one; a test holds it
    return examples[0]


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors that complete and check TOML."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(by_alias=True),
        "title": "Limner recipe",
    }


PLACEHOLDER = re.compile(r"\[trigger\]|\{trigger\}", re.IGNORECASE)
"""What stands for the trigger, in captions and in prompts."""
FLAG = re.compile(r"(?:(?<=\s)|^)--[a-z]+(?=\s|$)")
"""An option in a prompt, as kohya's prompt files have them: ``--w 64 --n blurry``."""


def prompts(recipe: Recipe) -> tuple[str, ...]:
    """The texts of :func:`sample_lines`."""
    return tuple(text for text, _ in sample_lines(recipe))


def sample_lines(recipe: Recipe) -> tuple[tuple[str, "PromptLine | None"], ...]:
    """The prompts of the recipe, then those of its prompt file, with the trigger in place of "[trigger]".

    Where several sets have triggers, such a prompt becomes one for each. Beside each what its flags say; None
    where it has none.

    Raises:
        BadRecipe: The prompt file is missing, unreadable or empty, or a prompt or a flag cannot be read.
    """
    file = recipe.sample.prompt_file
    sources = [
        *(("sample.prompts", prompt) for prompt in recipe.sample.prompts),
        *((f"sample.prompt_file {file}", line) for line in _texts(file)),
    ]
    lines = [(_line(prompt, source), prompt) for source, prompt in sources]
    return tuple(
        (text, line)
        for line, prompt in lines
        for text in for_triggers(line.prompt if line else prompt, recipe.data.triggers)
    )


def for_triggers(prompt: str, triggers: Sequence[str]) -> tuple[str, ...]:
    """A prompt with each of the triggers in turn where one shall stand; else as it is."""
    wanted = triggers if PLACEHOLDER.search(prompt) and triggers else ("",)
    return tuple(with_trigger(prompt, trigger) for trigger in wanted)


def _texts(file: Path | None) -> Sequence[str]:
    return imported("limner.recipe.prompt_file:texts_of")(file) if file else ()


def _line(prompt: str, source: str) -> "PromptLine | None":
    """What the flags of a prompt say; None where it has none.

    Raises:
        BadRecipe: A flag means nothing, or the prompt is JSON, which would be painted as words.
    """
    if FLAG.search(prompt):
        return imported("limner.recipe.prompt_file:sample_line")(prompt, source)
    if prompt.startswith("{") and prompt.endswith("}") and '"' in prompt:
        raise BadRecipe(f"{source}: {prompt[:60]!r} is JSON. Write the prompt alone, one a line.")
    return None


def with_trigger(prompt: str, trigger: str) -> str:
    """Put the trigger where "[trigger]" or "{trigger}" stands, and tidy the spaces."""
    return " ".join(PLACEHOLDER.sub(lambda _: trigger, prompt).split()).strip(" ,")
