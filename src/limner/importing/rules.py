"""Settings that mean something only together, or in another unit: one rule for each subject.

A rule takes its options out of the book and writes what they become. What no rule takes is looked up by its
spelling (``limner.recipe.spellings``).
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.importing import layers, objectives, prompts
from limner.importing.book import Book, is_set, number
from limner.importing.counts import images, steps
from limner.importing.options import ForeignOption
from limner.models.registry import hub_bases, recognised

ARGUMENT = re.compile(r"[,\s]+(?=\w+=)")
"""What stands between the arguments of an optimizer."""
COARSE = re.compile(r"4bit|nf4|fp4|int4|uint4|4_bit", re.IGNORECASE)


def base(book: Book) -> None:
    """The base, by its registered name where it has one."""
    ids = {entry.hub_id.lower(): name for name, entry in hub_bases().items()}
    names = (
        "pretrained_model_name_or_path",
        "base_model_name",
        "name_or_path",
        "dit",
        "model_id_with_origin_paths",
    )
    for option in book.each(*names, "model_paths"):
        name = (
            str(option.value).split(",")[0].partition(":")[0]
            if "origin" in option.leaf
            else str(option.value)
        )
        if "base" in book.changes:
            book.row(option, "cannot be had", "One base is trained.")
        elif name.lower() in ids:
            book.set(option, {"base": ids[name.lower()]}, "The registered name of that hub id.")
        elif option.leaf in ("dit", "model_paths") and (match := recognised(Path(name).stem)) and match[1]:
            note = f"Read from its folder in diffusers layout ({match[1].hub_id}), not from this file."
            book.set(option, {"base": match[1].name}, note)
        else:
            book.set(option, {"base": name}, outcome="kept")


def optimizer(book: Book) -> None:
    """Name and arguments of the optimizer."""
    for option in book.each("optimizer_args", "optimizer_config"):
        words = option.value if isinstance(option.value, list) else ARGUMENT.split(str(option.value))
        assignments: dict[str, Any] = {}
        rest: list[str] = []
        for word in words:
            name, _, value = str(word).partition("=")
            numbers = [number(part) for part in value.strip("()[] ").split(",")]
            if name.strip() == "weight_decay" and len(numbers) == 1 and None not in numbers:
                assignments["train.weight_decay"] = numbers[0]
            elif name.strip() == "betas" and len(numbers) == 2 and None not in numbers:
                assignments["train.betas"] = tuple(numbers)
            else:
                rest.append(str(word))
        if assignments:
            book.set(option, assignments)
        if rest:
            book.row(option, "cannot be had", f"{', '.join(rest)}: no such argument here; its default stays.")
    pairs = tuple((f"adam_beta{n}", f"beta{n}", f"optimizer_beta{n}") for n in (1, 2))
    first, second = (list(book.numbers(*names)) for names in pairs)
    betas = (first[0][1] if first else 0.9, second[0][1] if second else 0.999)
    for option, _ in (*first, *second):
        book.set(option, {"train.betas": betas}, "Both betas in one list.")


def warmup(book: Book) -> None:
    """Warm-up as a share of the steps."""
    options = book.take(
        "lr_warmup_steps", "warmup_ratio", "lr_warmup_ratio", "learning_rate_warmup_steps", "lr_warmup"
    )
    trainer, scheduler = book.facts.get("trainer"), str(book.peek("lr_scheduler") or "constant").lower()
    has_none = trainer == "diffusers" and scheduler == "constant"
    book.facts["warms up"] = not options and not has_none
    for option in options:
        share, steps_ = option.value, book.changes.get("train.steps")
        if option.leaf == "lr_warmup" and isinstance(share, int | float):
            share = share / 100  # kohya_ss asks for a percentage
        if has_none or not is_set(share) or share == 0:
            book.row(option, "off", "Its constant schedule has no warm-up." if has_none else "")
        elif isinstance(share, int | float) and (share >= 1 and float(share).is_integer()):
            book.set(option, {"train.warmup": int(share)}, outcome="kept")
        elif isinstance(share, float) and steps_:
            book.set(option, {"train.warmup": round(share * steps_)}, f"{share:g} of {steps_} steps.")
        else:
            book.row(
                option, "cannot be had", "A share of steps that are not known: set train.warmup, in steps."
            )


def network(book: Book) -> None:
    """Kind of adapter."""
    for option in book.each("network_module", "LoRA_type", "lora_type", "peft_type", "network_type"):
        word = str(option.value).lower()
        if word in ("standard", "lora", "lora_2") or re.fullmatch(r"networks?\.lora\w*", word):
            book.row(option, "kept", "A LoRA.")
        else:
            book.row(option, "cannot be had", "A LoRA is trained in its place.")
    for option in [option for option in book.options if option.key.endswith("network.type")]:
        book.options.remove(option)
        plain = str(option.value).lower() == "lora"
        book.row(
            option,
            "kept" if plain else "cannot be had",
            "A LoRA." if plain else "A LoRA is trained in its place.",
        )


LISTS_OF_SIZES = ("ai-toolkit", "OneTrainer")
"""Trainers whose list, or text with commas, of two numbers is two sizes; of others it is width and height."""


def resolution(book: Book) -> None:
    """Sides in pixels, from numbers, pairs, lists, or areas; of several datasets all of them."""
    sides: list[tuple[ForeignOption, tuple[int, ...]]] = []
    _sides_of_diffsynth(book)
    for option in book.each("resolution", "max_resolution", "max_pixels"):
        numbers = [int(part) for part in re.findall(r"\d+", str(option.value))]
        if not numbers or option.key.startswith("sample"):
            book.row(option, "cannot be had", "No number of pixels.")
        else:
            sides.append((option, _sides(option, numbers, book.facts.get("trainer", ""))))
    union = tuple(dict.fromkeys(side for _, parts in sides for side in parts))
    assignments: dict[str, Any] = {"data.resolution": union[0] if len(union) == 1 else union}
    for option, parts in sides:
        note = (
            "Images of all datasets are seen at all sizes that they fill." if len(parts) < len(union) else ""
        )
        is_kept = option.value in (assignments["data.resolution"], [*union])
        book.set(option, assignments, note, outcome="kept" if is_kept else "translated")


def _sides_of_diffsynth(book: Book) -> None:
    """DiffSynth-Studio's width and height, which are those of training: one resolution."""
    if book.facts.get("trainer") != "DiffSynth-Studio":
        return
    options = [option for option in book.take("width", "height") if is_set(option.value)]
    if len(options) == 2:
        book.options = [option for option in book.options if option.leaf != "max_pixels"]
        text = f"{options[0].value}x{options[1].value}"
        book.options.append(ForeignOption("resolution", text))
    for option in options:
        book.row(option, "translated", "See data.resolution.")


def _sides(option: ForeignOption, numbers: list[int], trainer: str) -> tuple[int, ...]:
    if option.leaf == "max_pixels":
        return (math.isqrt(numbers[0]),)
    is_pair = len(numbers) == 2 and (trainer not in LISTS_OF_SIZES or "x" in str(option.value))
    if is_pair:
        return (
            (round(math.sqrt(numbers[0] * numbers[1]) / 16) * 16,)
            if numbers[0] != numbers[1]
            else (numbers[0],)
        )
    return tuple(dict.fromkeys(numbers))


CONTROL_FOLDERS = ("control_path", *(f"control_path_{n}" for n in (1, 2, 3)), "control_directory")
CONTROL_FOLDERS += ("conditioning_data_dir",)
"""Of ai-toolkit, musubi-tuner and sd-scripts, in the order of the control images."""


def controls(book: Book) -> None:
    """Control images of an edit model: folders, or columns of the metadata."""
    options = sorted(book.each(*CONTROL_FOLDERS), key=lambda option: CONTROL_FOLDERS.index(option.leaf))
    folders: list[Path] = []
    for option in options:
        if option.key.rpartition(".")[0] != options[0].key.rpartition(".")[0]:
            book.row(option, "cannot be had", "A recipe has one folder of images, and its control images.")
            continue
        values = option.value if isinstance(option.value, list) else [option.value]
        folders += [Path(str(value)) for value in values if Path(str(value)) not in folders]
        book.set(option, {"data.control": tuple(folders)}, outcome="kept")
    for option in book.each("data_file_keys", "extra_inputs"):
        if {word.strip() for word in str(option.value).split(",")} <= {"image", "edit_image"}:
            book.row(option, "always so", "Control images are those of a column edit_image.")
        else:
            book.row(option, "cannot be had", "No such inputs here.")
    for option in book.each("dataset_metadata_path"):
        if Path(str(option.value)).name in ("metadata.csv", "metadata.jsonl"):
            book.row(option, "always so", "Read where it lies in the folder of images.")
        else:
            book.row(option, "cannot be had", "Name it metadata.csv or .jsonl, in the folder of images.")
    for option in book.each("edit", "edit_plus", "model_version"):
        book.row(option, "always so", "The base says itself of which family it is.")
    names = ("no_resize_control", "control_resolution")
    prefixes = ("", "qwen_image_edit_", "flux_kontext_", "flux_2_")
    for option in book.each(*(f"{prefix}{name}" for prefix in prefixes for name in names)):
        book.row(option, "cannot be had", "Control images are as large as the base's pipeline makes them.")


def quantization(book: Book) -> None:
    """How coarse frozen weights may be stored: a bound, within which the plan chooses."""
    names = (
        "fp8_base",
        "fp8_base_unet",
        "fp8_scaled",
        "nf4",
        "quantize",
        "qtype",
        "load_in_8bit",
        "load_in_4bit",
    )
    for option in book.each(
        *names, "base_model_precision", "weight_dtype", "transformer_weight_dtype", "unet_weight_dtype"
    ):
        word = f"{option.leaf} {option.value}"
        if COARSE.search(word):
            book.set(
                option,
                {"limits.weights_precision": "4bit"},
                "The plan takes a finer one where it costs no time.",
            )
        elif re.search(r"fp8|int8|8bit|qfloat8|float8|quantize", word, re.IGNORECASE):
            coarse = book.changes.get("limits.weights_precision", "8bit")
            book.set(
                option,
                {"limits.weights_precision": coarse},
                "The plan takes a finer one where it costs no time.",
            )
        else:
            book.row(option, "the plan decides")


PARTS = (
    "vae",
    "vae_path",
    "ae",
    "clip_l",
    "clip_g",
    "t5xxl",
    "text_encoder",
    "text_encoder1",
    "text_encoder2",
) + (
    "pretrained_vae_model_name_or_path",
    "vae_name_or_path",
    "tokenizer_path",
)


def parts(book: Book) -> None:
    """VAE and text encoders in files of their own."""
    for option in book.each(*PARTS):
        note = (
            "The base's own is taken; for a base in one file, components_from names the base that lends it."
        )
        book.row(option, "always so", note)


MASK_SOURCES = {"alpha_mask": "alpha", "masked_training": "sidecar"}
"""Switch of theirs -> where masks are."""


def masks(book: Book) -> None:
    """Masks, by the first switch that is on: kohya's folder beside its own switch, or the alpha channel."""
    folder = book.peek("conditioning_data_dir") if book.peek("masked_loss") is True else None
    for option in book.each("masked_loss"):
        if folder is None:
            book.row(option, "translated", "See where masks are: alpha_mask, or conditioning_data_dir.")
        else:
            note = "Of each mask the lightness, in place of the red channel."
            book.set(option, {"data.masks": Path(str(folder))}, note)
    for option in book.take("conditioning_data_dir") if folder is not None else ():
        book.row(option, "translated", "The folder of masks.")
    for option in book.each("alpha_mask", "masked_training", "mask_path"):
        value = MASK_SOURCES.get(option.leaf) or Path(str(option.value))
        if book.changes.get("data.masks", value) != value:
            book.row(option, "cannot be had", "Masks are in one place.")
        else:
            book.set(option, {"data.masks": value})
    for option, value in book.numbers("unmasked_weight", "mask_min_value"):
        if "data.masks" in book.changes and 0 <= value < 1:
            book.set(option, {"train.mask_floor": value}, outcome="kept")
        else:
            book.row(option, "off")
    for option in book.take("normalize_masked_area_loss"):
        differs = not is_set(option.value) and "data.masks" in book.changes
        note = "The weights of each image have a mean of 1."
        book.row(option, "cannot be had" if differs else "always so", note)


def output(book: Book) -> None:
    """Where the run goes."""
    names = (
        "output_dir",
        "training_folder",
        "output_model_destination",
        "save_path",
        "output_path",
        "workspace_dir",
    )
    for option in book.each(*names):
        book.row(option, "translated", f"limner train recipe.toml --out {option.value}")


RULES: tuple[Callable[[Book], None], ...] = (
    prompts.tables,
    *objectives.RULES,
    base,
    layers.family,
    images,
    steps,
    optimizer,
    warmup,
    objectives.timesteps,
    network,
    layers.layers,
    resolution,
    masks,
    controls,
    quantization,
    parts,
    output,
    prompts.samples,
)
"""In this order: later ones read what earlier ones found out."""
