"""Prompts of samples: texts, files of texts, and tables in which each has its own size, seed and steps."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limner.errors import BadRecipe
from limner.importing.book import Book, is_set, number
from limner.importing.options import SAMPLES, ForeignOption
from limner.recipe.prompt_file import COMMENTS, flags_of

FIELDS: Mapping[str, str] = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "neg": "negative_prompt",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "diffusion_steps": "steps",
    "sample_steps": "steps",
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "scale": "guidance",
    "network_multiplier": "strength",
}
"""A key of one sample of OneTrainer, ai-toolkit or sd-scripts -> ours in a table of ``sample.prompts``."""
CONTROL = re.compile(r"ctrl_img(?:_\d)?")
SWITCHES = ("enabled", "noise_scheduler", "sample_sampler", "fps", "length", "frames", "num_frames")
SWITCHES += ("text_encoder_1_sequence_length", "text_encoder_2_sequence_length")
"""Keys of one sample that say nothing of one still image, or have been obeyed."""
ENTRY = re.compile(rf"(?:.*\.)?{SAMPLES}\.(?:prompt\.subset\.)?(\d+)\.(\w+)")
COMMON = re.compile(rf"{SAMPLES}\.prompt\.(\w+)")
"""What sd-scripts' TOML says of all of its prompts."""


def tables(book: Book) -> None:
    """Samples of which each is a table: of OneTrainer, ai-toolkit, and in sd-scripts' JSON and TOML."""
    entries: dict[int, dict[str, ForeignOption]] = {}
    common: dict[str, Any] = {}
    for option in list(book.options):
        if match := COMMON.fullmatch(option.key):
            book.options.remove(option)
            if match[1] in FIELDS:
                common[FIELDS[match[1]]] = option.value
            book.row(option, "translated", "Each prompt has it.")
        elif match := ENTRY.fullmatch(option.key):
            book.options.remove(option)
            entries.setdefault(int(match[1]), {})[match[2]] = option
    prompts = {index: common | _table(book, entry) for index, entry in entries.items()}
    texts = {index: _text(table) for index, table in prompts.items()}
    firsts = [
        entries[index]["prompt"] for index, text in texts.items() if text and "prompt" in entries[index]
    ]
    if not firsts:
        return
    values: dict[str, Any] = {"sample.prompts": tuple(text for text in texts.values() if text)}
    controls = [_controls(entries[index]) for index, text in texts.items() if text]
    if any(controls):
        if len({len(paths) for paths in controls}) == 1:
            values["sample.control"] = tuple(path for paths in controls for path in paths)
        else:
            note = "Each prompt wants as many control images: set sample.control."
            book.row(ForeignOption("(sample.control)", None), "cannot be had", note)
    book.set(firsts[0], values, "Each with what it says of itself.")
    for option in firsts[1:]:
        book.row(option, "translated", "See sample.prompts.")
    for option in book.take("prompts"):
        book.row(option, "off", "The table of samples counts.")


def _table(book: Book, entry: Mapping[str, ForeignOption]) -> dict[str, Any]:
    """One sample as ours has it; a row for each of its keys but the prompt."""
    values: dict[str, Any] = {}
    is_on = "enabled" not in entry or is_set(entry["enabled"].value)
    for leaf, option in entry.items():
        key = FIELDS.get(leaf)
        if leaf == "prompt" and is_on and is_set(option.value):
            values["prompt"] = str(option.value)
        elif not is_on or not is_set(option.value):
            book.row(option, "off")
        elif key == "seed" and (number(option.value) or 0) < 0:
            book.row(option, "cannot be had", "A seed by chance: here every sample has its own, which stays.")
        elif key is not None:
            values[key] = option.value
            book.row(option, "translated", "In its prompt of sample.prompts.")
        elif CONTROL.fullmatch(leaf):
            book.row(option, "translated", "See sample.control.")
        elif leaf in SWITCHES or number(option.value) == 0:
            book.row(option, "off")
        else:
            book.row(option, "cannot be had", "No such setting of one sample here.")
    return values if is_on else {}


def _controls(entry: Mapping[str, ForeignOption]) -> list[Path]:
    names = sorted(leaf for leaf in entry if CONTROL.fullmatch(leaf) and is_set(entry[leaf].value))
    return [Path(str(entry[leaf].value)) for leaf in names]


def _text(table: Mapping[str, Any]) -> str:
    """A prompt with its flags; "" where there is none."""
    try:
        return flags_of(table)
    except BadRecipe:
        return ""


def samples(book: Book) -> None:
    """Prompts of samples: a file, one text, or a list; and what is said of all of them."""
    for option in book.each("sample_prompts", "prompts", "validation_prompt", "validation_prompts"):
        value: Any = option.value
        if isinstance(value, str) and option.leaf == "sample_prompts":
            _file(book, option, value)
        else:
            prompts = tuple(str(prompt) for prompt in (value if isinstance(value, list) else [value]))
            book.set(option, {"sample.prompts": prompts}, outcome="kept")
    for option in [option for option in book.options if option.key.startswith("library.")]:
        book.options.remove(option)
        prompts = (*book.changes.get("sample.prompts", ()), str(option.value))
        book.set(option, {"sample.prompts": prompts}, "A prompt of the library.")
    _of_all(book)


def _file(book: Book, option: ForeignOption, value: str) -> None:
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    if book.facts.get("trainer") == "kohya_ss":  # its window has the lines themselves
        prompts = tuple(line for line in lines if not line.startswith(COMMENTS))
        book.set(option, {"sample.prompts": prompts})
    elif Path(value).suffix.lower() in (".json", ".toml"):
        is_read = "sample.prompts" in book.changes
        note = "See its prompts." if is_read else "That file is not here, or has no prompt."
        book.row(option, "translated" if is_read else "cannot be had", note)
    else:
        book.set(option, {"sample.prompt_file": Path(value)}, outcome="kept")


def _of_all(book: Book) -> None:
    """A negative prompt, a strength and one seed for all prompts, written behind those that have none."""
    prompts = book.changes.get("sample.prompts", ())
    flags: list[tuple[ForeignOption, str]] = []
    for option in book.each("neg", "validation_negative_prompt"):
        flags.append((option, f"--n {option.value}"))
    for option in book.each("network_multiplier"):
        if number(option.value) != 1:
            flags.append((option, f"--am {option.value}"))
        else:
            book.row(option, "off")
    if book.facts.get("trainer") == "ai-toolkit" and prompts and not is_set(book.peek("walk_seed")):
        seed = next((option.value for option in book.options if option.key.endswith("sample.seed")), 0)
        flags.append((ForeignOption("(sample.walk_seed)", None), f"--d {seed}"))
        for option in book.take("walk_seed"):
            book.row(option, "translated", "Every prompt has the same seed.")
    for option, flag in flags:
        if not prompts:
            book.row(option, "cannot be had", "There is no prompt here to write it behind.")
            continue
        name = flag.split()[0]
        prompts = tuple(text if f" {name} " in text else f"{text} {flag}" for text in prompts)
        book.set(option, {"sample.prompts": prompts}, "Behind each prompt.")
