"""Folders of images and numbers of steps: what other trainers count in epochs and repeats."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from limner.data.listing import listed
from limner.importing.book import Book, is_set, number
from limner.importing.options import ForeignOption

REPEATS = re.compile(r"(\d+)_(.+)")
"""kohya's folders: how often their images are seen in an epoch, and the class tokens."""
FOLDERS = ("train_data_dir", "instance_data_dir", "image_dir", "image_directory", "folder_path") + (
    "dataset_base_path",
    "path",
)


OF_SETS = {
    "class_tokens": "default_caption",
    "instance_prompt": "default_caption",
    "default_caption": "default_caption",
    "trigger_word": "trigger",
    "flip_aug": "flip",
    "flip_x": "flip",
    "random_flip": "flip",
    "enable_random_flip": "flip",
    "loss_weight": "weight",
    "control_path": "control",
    "control_directory": "control",
}
"""Keys that each of several datasets may have -> ours in [[data.sets]]."""


def images(book: Book) -> None:
    """Folders of images, their repeats and captions."""
    class_folders = {option.key.rpartition(".")[0] for option in book.take("is_reg") if is_set(option.value)}
    counts = {
        option.key.rpartition(".")[0]: option
        for option in book.take("num_repeats", "repeats", "dataset_repeat", "balancing")
    }
    folders: dict[str, ForeignOption] = {}
    for option in book.each(*FOLDERS):
        entry = option.key.rpartition(".")[0]
        if option.leaf == "path" and not option.key.startswith(("concepts", "0", "datasets")):
            book.row(option, "cannot be had", "No folder of images.")
        elif entry in class_folders:
            book.set(option, {"prior.images": Path(str(option.value))}, "Regularization images.")
        elif any(option.value == other.value for other in folders.values()):
            book.row(option, "kept", "A folder that is named before.")
        else:
            folders[entry] = option
    _set_folders(book, folders, counts)
    for option in counts.values():
        book.row(option, "translated" if is_set(option.value) else "off", "Counted into the steps.")
    for option in book.each("reg_data_dir", "class_data_dir"):
        book.set(option, {"prior.images": Path(str(option.value))}, outcome="kept")
    for option in book.each("caption_extension", "caption_ext"):
        is_text = str(option.value).lstrip(".") == "txt"
        note = "" if is_text else "Captions are .txt files, metadata.jsonl or metadata.csv: rename them."
        book.row(option, "always so" if is_text else "cannot be had", note)


def _set_folders(
    book: Book, folders: Mapping[str, ForeignOption], counts: Mapping[str, ForeignOption]
) -> None:
    """One folder is ``data.images``; several are ``data.sets``, each with what its dataset says."""
    repeats = {entry: _repeats(book, counts.get(entry)) for entry in folders}
    images_per_epoch = [
        _image_count(Path(str(option.value)), repeats[entry]) for entry, option in folders.items()
    ]
    if folders:
        complete = all(images_per_epoch)
        book.facts["images"] = sum(count or 0 for count in images_per_epoch) if complete else None
    if len(folders) < 2:
        for option in folders.values():
            book.set(option, {"data.images": Path(str(option.value))}, outcome="kept")
        return
    sets = [
        {"images": str(option.value), **({"repeats": repeats[entry]} if repeats[entry] > 1 else {})}
        for entry, option in folders.items()
    ]
    for (entry, option), values in zip(folders.items(), sets, strict=True):
        for other in [other for other in book.options if _is_of(other, entry)]:
            book.options.remove(other)
            if is_set(other.value) and number(other.value) != 1:
                values[OF_SETS[other.leaf]] = other.value
            book.row(other, "translated" if is_set(other.value) else "off", "In its table of [[data.sets]].")
        if option is not next(iter(folders.values())):
            book.row(option, "translated", f"Set {sets.index(values) + 1} of [[data.sets]].")
    book.set(next(iter(folders.values())), {"data.sets": tuple(sets)}, "Several folders are sets.")


def _is_of(option: ForeignOption, entry: str) -> bool:
    """Whether an option of a dataset belongs to that which stands at ``entry``."""
    inside = option.key.startswith(f"{entry}.") and entry != ""
    return inside and option.leaf in OF_SETS


def _repeats(book: Book, option: ForeignOption | None) -> int:
    """How often an image is seen in an epoch: SimpleTuner counts those after the first."""
    extra = option is not None and book.facts.get("trainer") == "SimpleTuner"
    return int(number(option.value if option else 0) or 0) + 1 if extra else _number(option)


def _number(option: ForeignOption | None) -> int:
    return int(max(1.0, number(option.value if option else 1) or 1.0))


def _image_count(folder: Path, repeats: int) -> int | None:
    """Images that an epoch shows: repeats times images, kohya's numbered folders each by its number."""
    if not folder.is_dir():
        return None
    numbers = {
        inner.name: match
        for inner in folder.iterdir()
        if inner.is_dir() and (match := REPEATS.fullmatch(inner.name))
    }
    if not numbers:
        return repeats * len(listed(folder).images) or None
    return sum(int(match[1]) * len(listed(folder / name).images) for name, match in numbers.items()) or None


def steps(book: Book) -> None:
    """Images per step and the number of steps, from epochs where these are what is said."""
    sizes = list(book.each("train_batch_size", "batch_size", "per_device_train_batch_size"))
    accumulations = list(book.each("gradient_accumulation_steps", "gradient_accumulation"))
    silent = int(book.facts.get("batch", 1))
    batch = max((_number(option) for option in sizes), default=silent)
    batch *= max((_number(option) for option in accumulations), default=1)
    if not sizes and silent > 1:
        note = f"The default of {book.facts['trainer']}; the file is silent."
        book.set(ForeignOption("(train.batch)", None), {"train.batch": batch}, note)
    for option in (*sizes, *accumulations):
        book.set(
            option, {"train.batch": batch}, "Images per optimizer step: batch size x gradient accumulation."
        )
    image_count = book.facts.get("images")
    per_epoch = math.ceil(image_count / batch) if image_count else None
    book.facts["steps per epoch"] = per_epoch
    epochs = list(book.numbers("max_train_epochs", "num_train_epochs", "epochs", "epoch", "num_epochs"))
    limits = list(book.numbers("max_train_steps", "max_steps", "steps"))
    for option in [option for option, value in (*limits, *epochs) if value < 1]:
        book.row(option, "off")
    limits, epochs = ([pair for pair in group if pair[1] >= 1] for group in (limits, epochs))
    epochs_decide = any(option.leaf == "max_train_epochs" for option, _ in epochs)  # elsewhere steps do
    for option, value in limits:
        if epochs_decide and option.leaf == "max_train_steps" and per_epoch:
            book.row(option, "off", "The epochs decide.")
        else:
            book.set(option, {"train.steps": int(value)}, outcome="kept")
    for option, value in epochs:
        if per_epoch and ("train.steps" not in book.changes or option.leaf == "max_train_epochs"):
            note = f"{option.value} epochs x {image_count} images with repeats / {batch} per step."
            book.set(option, {"train.steps": int(value) * per_epoch}, note)
        elif "train.steps" in book.changes:
            book.row(option, "off", "The number of steps decides.")
        else:
            note = (
                "The images are not here to be counted. Set train.steps = epochs x images x repeats / batch."
            )
            book.row(option, "cannot be had", note)
    if book.facts.get("epochs") and not limits and not epochs:
        _silent_epochs(book, per_epoch)
    _every(book, per_epoch)


def _silent_epochs(book: Book, per_epoch: int | None) -> None:
    """Epochs that a trainer assumes where its file is silent."""
    option, number_ = ForeignOption("(train.steps)", None), int(book.facts["epochs"])
    note = f"The default of {book.facts['trainer']}, epochs: {number_}; the file is silent."
    if per_epoch:
        book.set(option, {"train.steps": number_ * per_epoch}, note)
    else:
        book.row(option, "cannot be had", f"{note} The images are not here to be counted: set train.steps.")


EPOCHS = {
    "save_every_n_epochs": "train.save_every",
    "checkpoint_epoch_interval": "train.save_every",
    "sample_every_n_epochs": "sample.every",
    "validation_epochs": "sample.every",
    "validation_epoch_interval": "sample.every",
    "validate_every_n_epochs": "train.validation_every",
}


UNITS = {
    "sample_after": "sample.every",
    "save_every": "train.save_every",
    "validate_after": "train.validation_every",
}
"""OneTrainer's intervals, each with a unit."""


def _with_units(book: Book, per_epoch: int | None) -> None:
    for leaf, key in UNITS.items():
        units = book.take(f"{leaf}_unit")
        unit = str(units[0].value).upper() if units else "MINUTE"
        steps_ = {"STEP": 1, "EPOCH": per_epoch}.get(unit)
        for option, value in book.numbers(leaf):
            if unit == "NEVER" or value <= 0:
                book.row(option, "off")
            elif steps_:
                book.set(option, {key: max(1, round(value * steps_))})
            else:
                book.row(option, "cannot be had", f"Count steps: {key}.")
        for option in units:
            book.row(option, "off" if unit == "NEVER" else "translated")


def _every(book: Book, per_epoch: int | None) -> None:
    if book.facts.get("trainer") == "OneTrainer":
        _with_units(book, per_epoch)
    for leaf, assignments in EPOCHS.items():
        for option in book.each(leaf):
            if per_epoch and isinstance(option.value, int | float):
                interval = max(1, round(option.value * per_epoch))
                book.set(option, {assignments: interval}, f"{per_epoch} steps an epoch.")
            else:
                book.row(
                    option,
                    "cannot be had",
                    f"The images are not here to be counted: set {assignments}, in steps.",
                )
