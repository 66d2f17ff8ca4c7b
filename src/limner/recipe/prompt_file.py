"""Prompts with the flags that sd-scripts reads at the end of a line, in a file or in a recipe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadRecipe

COMMENTS = ("#", ";", "//")
"""What a line of a recipe's prompt file begins with that is no prompt."""
FLAG = re.compile(r"\s--([A-Za-z]+)(?=\s|$)")
"""Begins a flag: "--w 512". sd-scripts, ``library/train_util.py``, ``line_to_prompt_dict``."""
FLAGS: Mapping[str, tuple[str, type]] = {
    "n": ("negative_prompt", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("guidance", float),
    "g": ("guidance", float),
    "ci": ("controls", Path),
}
"""sd-scripts' flag -> field of :class:`PromptLine`, and the type of its value."""
SAMPLE_FLAGS: Mapping[str, tuple[str, type]] = {
    **{flag: field for flag, field in FLAGS.items() if flag != "ci"},
    "am": ("strength", float),
    "m": ("strength", float),
}
"""Those of a sample during training; ``--am`` is sd-scripts', ``--m`` ai-toolkit's."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "width": (16, 8192),
    "height": (16, 8192),
    "seed": (0, 2**63 - 1),
    "steps": (1, 1000),
    "guidance": (0, 1000),
    "strength": (-10, 10),
}
"""Field -> the minimum and the maximum value of a sample."""


@dataclass(frozen=True)
class PromptLine:
    """A prompt, and what its line says of how it is sampled. None: as all others are."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    """In pixels, as ``height``."""
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    """Of the sampler."""
    guidance: float | None = None
    controls: tuple[Path, ...] | None = None
    """Control images of an edit model: musubi-tuner's ``--ci``, which may be repeated."""
    strength: float | None = None
    """Of a sample during training: what the LoRA is multiplied by."""


def prompt_lines(path: Path, option: str, alternative: str) -> list[PromptLine]:
    """The prompts of a file, in order. Empty lines and those that begin with # are passed over.

    Args:
        path: UTF-8 text.
        option: How the person named the file, for messages: "sample.prompt_file".
        alternative: What takes prompts without a file: "sample.prompts".

    Raises:
        BadRecipe: The file is missing, unreadable or empty, or a flag means nothing.
    """
    lines = [
        (number, line.strip()) for number, line in enumerate(_text(path, option, alternative).splitlines(), 1)
    ]
    prompts = [
        _prompt_line(line, f"{option} {path}, line {number}")
        for number, line in lines
        if line and not line.startswith("#")
    ]
    if not prompts:
        raise BadRecipe(f"{option} {path} holds no prompt. Write one per line, or use {alternative}.")
    return prompts


def texts_of(path: Path) -> list[str]:
    """The prompts of ``sample.prompt_file``, a line each, flags and all.

    Raises:
        BadRecipe: The file is missing, unreadable or empty.
    """
    lines = [line.strip() for line in _text(path, "sample.prompt_file", "sample.prompts").splitlines()]
    texts = [line for line in lines if line and not line.startswith(COMMENTS)]
    if not texts:
        raise BadRecipe(f"sample.prompt_file {path} holds no prompt. Write one per line, or remove the key.")
    return texts


def _text(path: Path, option: str, alternative: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # Windows begins texts with a mark
    except FileNotFoundError as error:
        raise BadRecipe(
            f"{option} is {path}, and there is no such file. Write one prompt per line into it, or use "
            f"{alternative}."
        ) from error
    except UnicodeDecodeError as error:
        raise BadRecipe(f"{option} {path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise BadRecipe(f"{option} {path} cannot be read: {error.strerror}. Check the path.") from error


def sample_line(line: str, source: str) -> PromptLine:
    """A prompt of the recipe with flags, as it is sampled during training.

    Raises:
        BadRecipe: A flag means nothing, or its value is out of range.
    """
    result = _prompt_line(line, source, SAMPLE_FLAGS)
    for name, (minimum, maximum) in LIMITS.items():
        value = getattr(result, name)
        if value is not None and not minimum <= value <= maximum:
            raise BadRecipe(
                f"{source}: {name} is {value:g} in {line[:60]!r}; it must be from {minimum:g} to {maximum:g}."
            )
    if not result.prompt:
        raise BadRecipe(f"{source}: {line[:60]!r} is no prompt, only flags. Write the prompt before them.")
    return result


def flags_of(table: Mapping[str, Any]) -> str:
    """A prompt that a recipe has as a table, as one text with flags.

    ``flags_of({"prompt": "a cat", "width": 512}) == "a cat --w 512"``.

    Raises:
        BadRecipe: A key means nothing, or there is no prompt.
    """
    flags: dict[str, str] = {}
    for flag, (name, _) in SAMPLE_FLAGS.items():
        flags.setdefault(name, flag)
    if unknown := [key for key in table if key not in ("prompt", *flags)]:
        names = ", ".join(("prompt", *flags))
        raise BadRecipe(f"Unknown key {unknown[0]} of a prompt in sample.prompts. There are {names}.")
    if not isinstance(prompt := table.get("prompt"), str) or not prompt.strip():
        raise BadRecipe('A prompt in sample.prompts has no text. Write it as prompt = "a cat".')
    options = [f"--{flags[key]} {value}" for key, value in table.items() if key != "prompt"]
    return " ".join([prompt.strip(), *options])


def _prompt_line(line: str, source: str, table: Mapping[str, tuple[str, type]] = FLAGS) -> PromptLine:
    """A line taken apart: ``a cat --n blurry --w 512 --d 3``."""
    prompt, *rest = FLAG.split(f" {line}")
    values: dict[str, Any] = {}
    for flag, text in zip(rest[::2], rest[1::2], strict=True):
        if flag not in table:
            names = ", ".join(f"--{name}" for name in table)
            raise BadRecipe(f"{source}: --{flag} is no flag of a prompt. It may have {names}.")
        name, kind = table[flag]
        if kind is Path:
            values[name] = (*values.get(name, ()), Path(text.strip()))
            continue
        try:
            values[name] = kind(text.strip())
        except ValueError:
            raise BadRecipe(f"{source}: --{flag} is {text.strip()!r:.60}; it must be a number.") from None
    return PromptLine(prompt.strip(), **values)
