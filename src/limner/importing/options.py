"""What a configuration of another trainer says, whatever its form: a list of keys and values.

Four forms are read: TOML, YAML and JSON files, and command lines as scripts hold them (``accelerate launch ..
train.py --lr 1e-4``). Files that a configuration names for its datasets are read along with it.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from limner.errors import BadUsage
from limner.files import user_path

SAMPLES = "samples"
MORE_FILES = {
    **dict.fromkeys(("dataset_config", "config_file", "data_backend_config", "concept_file_name"), ""),
    "sample_definition_file_name": SAMPLES,
    "sample_prompts": SAMPLES,
    "user_prompt_library": "library",
}
"""Keys whose value is another file of the same configuration -> what stands before its keys."""
TABLES = (".json", ".toml", ".yaml", ".yml")
"""Ends of names of files that hold tables."""
SCRIPT = re.compile(r"[\w./\\:-]+\.py$")
CONTINUATION = re.compile(r"[\\^`]\s*\n")
"""Ends of lines that go on: of a POSIX shell, of cmd, of PowerShell."""
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
WINDOWS = re.compile(r"(?<![\w/])[A-Za-z]:\\\w")
"""A path with a drive: backslashes are no escapes where there is one."""
ASSIGNMENT = re.compile(
    r"""\s*(?:export\s+|set\s+|\$(?:env:)?)?"?(?P<name>[A-Za-z_]\w*)\s*=(?P<value>.*)""", re.IGNORECASE
)
"""A line that sets a variable, of a POSIX shell, of cmd, of PowerShell."""
VARIABLE = re.compile(
    r"\$\{(?P<braced>\w+)(?::?-(?P<otherwise>[^}]{0,200}))?\}|\$(?:env:)?(?P<plain>[A-Za-z_]\w*)|%(?P<cmd>[A-Za-z_]\w*)%"
)
LAUNCHER = "launcher"
"""First part of the keys that stand before the script: those of accelerate or torchrun."""
LARGEST = 4_000_000
"""Bytes of a configuration; what is larger is none."""
MOST = 20_000
"""Values of one."""


@dataclass(frozen=True)
class ForeignOption:
    """One key of a configuration.

    Attributes:
        key: Dotted path as it stands in the file; entries of lists are numbered from 0.
        value: A number, a text, a truth value, None, or a list of such.
    """

    key: str
    value: Any

    @property
    def leaf(self) -> str:
        """Last part of the path."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Configuration:
    """A configuration as it was read.

    Attributes:
        path: Its file.
        script: The program that its command line runs; "" of any other form.
        options: In the order of the file.
        absent_files: Key and name of files that it names and that are not here.
    """

    path: Path
    script: str
    options: tuple[ForeignOption, ...]
    absent_files: tuple[ForeignOption, ...] = ()

    @property
    def leaves(self) -> frozenset[str]:
        """Last parts of all keys."""
        return frozenset(option.leaf for option in self.options)


def read(path: Path) -> Configuration:
    """Read a configuration and the files that it names.

    Raises:
        BadUsage: It is not there, unreadable, torn, or holds no key.
    """
    script, options = _read(path)
    absent_files: list[ForeignOption] = []
    for option in list(options):
        if not _names_a_file(option):
            continue
        file = next((file for file in _paths(path, option.value) if file.is_file()), None)
        if file is None:
            absent_files.append(option)
        elif file.resolve() != path.resolve():
            prefix = MORE_FILES[option.leaf] and f"{MORE_FILES[option.leaf]}."
            options += [ForeignOption(prefix + entry.key, entry.value) for entry in _read(file)[1]]
    if not options:
        raise BadUsage(
            f"{path} holds no key and no option. Name the trainer's configuration, or its command."
        )
    return Configuration(path, script, tuple(options), tuple(absent_files))


def _names_a_file(option: ForeignOption) -> bool:
    """Whether a value is the name of a file with more tables: prompts may be plain text."""
    value = option.value
    if option.leaf not in MORE_FILES or not isinstance(value, str) or not value or "\n" in value:
        return False
    return option.leaf != "sample_prompts" or Path(value).suffix.lower() in TABLES


def _paths(path: Path, name: str) -> Iterator[Path]:
    """Where a file may be that a configuration names: beside it, and from here."""
    yield path.parent / name
    yield user_path(name)
    yield path.parent / Path(name.replace("\\", "/")).name


def _read(path: Path) -> tuple[str, list[ForeignOption]]:
    try:
        if path.exists() and not path.is_file():
            raise BadUsage(f"{path} is no file. Name the trainer's configuration, or its command.")
        if path.stat().st_size > LARGEST:
            raise BadUsage(
                f"{path} has {path.stat().st_size:,} bytes, which no configuration has. Check the name."
            )
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadUsage(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise BadUsage(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        match path.suffix.lower():
            case ".toml":
                return "", _options(tomllib.loads(text))
            case ".yaml" | ".yml":
                return "", _options(yaml.safe_load(text))
            case ".json":
                return "", _options(json.loads(text))
            case _:
                return command(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # numbers of 5,000 digits are a ValueError
        raise BadUsage(
            f"{path} is torn: {_where(error)}. Mend it, or save it again with its trainer."
        ) from error


def _options(value: Any) -> list[ForeignOption]:
    """All values of a file. References of YAML to references can stand for more than any memory holds.

    Raises:
        ValueError: They are more than a configuration has.
    """
    options = list(islice(_flat(value), MOST + 1))
    if len(options) > MOST:
        raise ValueError(f"more than {MOST:,} values")
    return options


def _where(error: Exception) -> str:
    """The fault of a file in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', 'unreadable')}"
    return str(error).splitlines()[0][:200]


def _flat(value: Any, prefix: str = "") -> Iterator[ForeignOption]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{prefix}.{_plain(name)}" if prefix else _plain(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{prefix}.{number}" if prefix else str(number))
    elif prefix:
        if isinstance(value, str) and EXPONENT.fullmatch(value):  # YAML takes 1e-4 for a text
            value = float(value)
        yield ForeignOption(prefix, value)


def _plain(name: object) -> str:
    """SimpleTuner writes the keys of its JSON as options."""
    return str(name).removeprefix("--")


def command(text: str) -> tuple[str, list[ForeignOption]]:
    """The script of a training command and its options, of the last command in a text that runs one.

    Raises:
        BadUsage: The text cannot be split into words.
    """
    lines = (
        line
        for line in CONTINUATION.sub(" ", text).splitlines()
        if not line.lstrip().startswith(("#", "REM ", "::"))
    )
    best: tuple[str, list[ForeignOption]] = ("", [])
    values: dict[str, str] = {}
    is_windows = bool(WINDOWS.search(text))
    for line in lines:
        if ".py" not in line and (match := ASSIGNMENT.fullmatch(line)):
            values[match["name"].lower()] = _expanded(
                match["value"].partition(";")[0].strip(" \t\"'"), values
            )
            continue
        try:
            words = _split(_expanded(line, values), is_windows=is_windows)
        except ValueError as error:
            if ".py" in line:
                raise BadUsage(
                    f"The command cannot be split into words: {error}. Check its quotes."
                ) from error
            continue
        script = next((word for word in words if _is_script(word)), "")
        if script and ("train" in Path(script.replace("\\", "/")).name or not best[0]):
            split = words.index(script)
            best = script, [*_words(words[:split], f"{LAUNCHER}."), *_words(words[split + 1 :], "")]
    return best


def _is_script(word: str) -> bool:
    """Whether a word is a Python file. A text of a million letters would take hours to search."""
    return word.endswith(".py") and SCRIPT.search(word[-300:]) is not None


def _split(line: str, *, is_windows: bool) -> list[str]:
    """The words of a line; backslashes of paths with a drive stay."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, "" if is_windows else "#"
    if is_windows:
        lexer.escape = ""
    return list(lexer)


def _expanded(text: str, values: Mapping[str, str]) -> str:
    """A line with the variables that lines before it set; others stay as they are."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"] or match["cmd"]
        return values.get(name.lower(), match[0] if match["otherwise"] is None else match["otherwise"])

    return VARIABLE.sub(value, text)


def has_variable(value: object) -> bool:
    """Whether a value of a command line names a variable that nothing sets."""
    return isinstance(value, str) and VARIABLE.search(value) is not None


def _words(words: list[str], prefix: str) -> Iterator[ForeignOption]:
    """``--key value``, ``--key=value``, ``--key a b c`` and bare flags."""
    name = ""
    values: list[Any] = []
    for word in [*words, "--"]:
        if not word.startswith("--"):
            values.append(_value(word))
            continue
        if name:
            yield ForeignOption(prefix + name, values[0] if len(values) == 1 else values or True)
        name, _, value = word.removeprefix("--").partition("=")
        name, values = name.replace("-", "_"), [_value(value)] if value else []


def _value(word: str) -> bool | int | float | str:
    """A word of a command line as what it says."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        return word
