"""A file of prompts, one a line, with the flags that sd-scripts reads at the end of a line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadRecipe

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


def _prompt_line(line: str, source: str) -> PromptLine:
    """A line taken apart: ``a cat --n blurry --w 512 --d 3``."""
    prompt, *rest = FLAG.split(f" {line}")
    values: dict[str, Any] = {}
    for flag, text in zip(rest[::2], rest[1::2], strict=True):
        if flag not in FLAGS:
            names = ", ".join(f"--{name}" for name in FLAGS)
            raise BadRecipe(f"{source}: --{flag} is no flag of a prompt. It may have {names}.")
        name, kind = FLAGS[flag]
        if kind is Path:
            values[name] = (*values.get(name, ()), Path(text.strip()))
            continue
        try:
            values[name] = kind(text.strip())
        except ValueError:
            raise BadRecipe(f"{source}: --{flag} is {text.strip()!r:.60}; it must be a number.") from None
    return PromptLine(prompt.strip(), **values)
