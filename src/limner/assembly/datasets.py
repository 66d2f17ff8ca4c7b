"""The sets of a recipe: read, divided into what is trained and what is measured, drawn by shares.

And how much of a caption the base reads: one measure for training and for ``check``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.data.captions import has_word
from limner.data.folder import Example, Folder, read_folder
from limner.data.masks import require_masks
from limner.data.order import SUBSET, held_out, whole_ratio
from limner.data.summary import what_was_read
from limner.data.views import View
from limner.errors import BadBase, BadData, first_line
from limner.files import user_cache, write_text
from limner.imports import imported
from limner.models.facts import is_tokenizer
from limner.recipe.schema import Data, DataSet, Recipe

if TYPE_CHECKING:
    from limner.assembly.base import ResolvedBase
    from limner.graph.unit import Unit
    from limner.models.family import Family
    from limner.models.placeholder import Placeholder
    from limner.models.source import Source

MIN_CAPTIONS = 256
"""Different captions from which on it is kept how many are too long: fewer are counted in a moment."""
MAX_COUNTS = 64
"""Of so many data sets; that of the one that was counted first goes."""
Division = tuple[list[Example], list[Example], bool, tuple[str, ...]]
"""Examples to train on, examples to measure on, whether the two are disjoint, and what is to be told."""


@dataclass(frozen=True)
class Sets:
    """The folders of the sets of a recipe."""

    folders: tuple[Folder, ...]
    held_out: tuple[Folder | None, ...]
    """Of each set the folder of its validation images, if it has one of its own."""

    @cached_property
    def joined(self) -> Folder:
        """All of them as one; each example knows its set."""
        return joined_folder(self.folders)

    @property
    def validation(self) -> list[Folder]:
        """The folders of validation images that there are."""
        return [folder for folder in self.held_out if folder is not None]


def joined_folder(folders: Sequence[Folder]) -> Folder:
    """Several folders as one, whose root is what they lie in, and whose examples know their set."""
    if len(folders) == 1:
        return folders[0]
    root = Path(os.path.commonpath([folder.root.absolute() for folder in folders]))
    examples = tuple(
        replace(example, path=example.path.absolute(), dataset=number)
        for number, folder in enumerate(folders)
        for example in folder.examples
    )
    rejections = (entry for folder in folders for entry in folder.rejected)
    rejected = tuple(replace(entry, path=entry.path.absolute()) for entry in rejections)
    surplus = tuple(path.absolute() for folder in folders for path in folder.surplus_masks)
    return Folder(root, "sets", examples, rejected, surplus_masks=surplus)


def set_names(data: Data) -> tuple[str, ...]:
    """What each set is called: the last part of its folder, or all of it where that is not unique."""
    names = [root.name for root in data.roots]
    return tuple(
        name if names.count(name) == 1 else str(root) for name, root in zip(names, data.roots, strict=True)
    )


def read_sets(base: "ResolvedBase") -> Sets:
    """Every usable image of every set.

    Raises:
        BadData: There is no such folder, or nothing in one is usable.
    """
    entries = base.recipe.data.folders
    folders = tuple(_read(base, entry, "images") for entry in entries)
    for entry, folder in zip(entries, folders, strict=True):
        masks = [example.mask for example in folder.examples]
        require_masks(folder.root, entry.masks, masks, folder.rejected)
    validation = (
        _read(base, entry, "validation_images") if entry.validation_images else None for entry in entries
    )
    return Sets(folders, tuple(validation))


def _read(base: "ResolvedBase", entry: DataSet, key: str) -> Folder:
    """A folder of a set, with captions as the recipe says."""
    folder, data = Path(getattr(entry, key)), base.recipe.data
    if not folder.exists():
        label = f"data.{key}" if not data.sets else f"{key} of one of data.sets"
        remedy = f"--set data.{key}=FOLDER" if not data.sets else "Correct it in the recipe."
        raise BadData(f"{label} is {folder}, and there is no such folder. Where is it now? {remedy}")
    texts = {"trigger": entry.trigger, "default_caption": entry.default_caption}
    pairs = {"control": entry.control, "controls_each": base.spec.controls, "fit": base.control_fit}
    return read_folder(folder, min_side=base.sizes.min_side, masks=entry.masks, **texts, **pairs)


def hold_out_of_sets(data: Data, sets: Sets) -> Division:
    """The images of all sets divided, those that are trained with the repeats that their set is drawn with.

    Where some set holds images out, the others are not measured; where none does, a few of each are.

    Raises:
        BadData: Images of a set are both trained and held out, or none is left to train on.
    """
    parts: list[Division] = []
    for number, entry in enumerate(data.folders):
        set_examples = tuple(example for example in sets.joined.examples if example.dataset == number)
        parts.append(
            _divided(entry, replace(sets.folders[number], examples=set_examples), sets.held_out[number])
        )
    is_disjoint = any(disjoint for _, _, disjoint, _ in parts)
    limit = max(1, SUBSET // len(parts))
    validation_examples = [
        replace(example, dataset=number)
        for number, (train, validation, disjoint, _) in enumerate(parts)
        for example in (validation if disjoint else [] if is_disjoint else train[:limit])
    ]
    repeats = repeats_of(data.folders, [sum(example.repeats for example in train) for train, *_ in parts])
    train_examples = [
        replace(example, repeats=example.repeats * factor) if factor > 1 else example
        for (train, *_), factor in zip(parts, repeats, strict=True)
        for example in train
    ]
    return train_examples, validation_examples, is_disjoint, tuple(note for part in parts for note in part[3])


def repeats_of(entries: Sequence[DataSet], draws: Sequence[int]) -> tuple[int, ...]:
    """How often an epoch shows each set, so that their shares of the draws are right to 2 %.

    Args:
        entries: The sets.
        draws: Images of each, repeats of their own included.
    """
    shares = [entry.share for entry in entries]
    if any(share is None for share in shares):
        return tuple(entry.repeats for entry in entries)
    return whole_ratio([(share or 0) / count for share, count in zip(shares, draws, strict=True)])


def _divided(entry: DataSet, folder: Folder, validation_folder: Folder | None) -> Division:
    """The division of one set."""
    examples = list(folder.examples)
    contents = {example.sha256 for example in examples}
    if validation_folder is not None:
        if overlap := [
            example.path.name for example in validation_folder.examples if example.sha256 in contents
        ]:
            raise BadData(
                f"{len(overlap)} of the {len(validation_folder.examples)} images in data.validation_images "
                f"are trained on as well: {overlap[0]} .. Remove them from one of the two folders."
            )
        return examples, list(validation_folder.examples), True, _leaks(folder, validation_folder)
    count = held_out(len(contents), entry.validation_count)
    if count >= len(contents):
        raise BadData(
            f"data.validation_count is {count} and the folder has {len(contents)} different usable "
            f"images: none is "
            f"left to train on. Set it to at most {max(0, len(contents) - 1)}."
        )
    if count == 0:
        return examples, examples[:SUBSET], False, ()
    # most folders are smaller than those of which something is held out
    hashes = imported("limner.data.near_duplicates:hold_out")(examples, count, folder.index)
    notes: tuple[str, ...] = ()
    if len(hashes) != count:
        notes = (
            f"Held out: {len(hashes)} of {count} images that were to be. Images that are nearly the same are "
            "never divided between training and validation.",
        )
    if not hashes:
        return examples, examples[:SUBSET], False, notes
    return (
        [example for example in examples if example.sha256 not in hashes],
        [example for example in examples if example.sha256 in hashes],
        True,
        notes,
    )


def _leaks(folder: Folder, validation_folder: Folder) -> tuple[str, ...]:
    """A line on validation images that training sees nearly the same."""
    near_training = imported("limner.data.near_duplicates:near_training")
    pairs = near_training(folder.examples, validation_folder.examples, folder.index)
    if not pairs:
        return ()
    names = f"{validation_folder.named(pairs[0][0].path)} and {folder.named(pairs[0][1].path)}"
    return (
        f"{len(pairs)} of {len(validation_folder.examples)} validation images are nearly the same as images "
        f"that are trained on ({names}): their loss does not show overfitting. Remove them from one folder.",
    )


def what_sets_hold(data: Data, folders: Sequence[Folder], views: Sequence[View] = ()) -> list[str]:
    """What was read of each set, under its name where there are several, and its share of the draws.

    Args:
        data: Of the recipe.
        folders: Of each set.
        views: What is drawn from; none: no shares are told.
    """
    lines: list[str] = []
    for entry, name, folder in zip(data.folders, set_names(data), folders, strict=True):
        prefix = f"{name}: " if data.sets else ""
        set_lines = what_was_read(folder, trigger=entry.trigger, default_caption=entry.default_caption)
        lines += [f"{prefix}{line}" for line in set_lines]
    if views and (data.tag_shuffle or data.tag_dropout):
        captions = {(view.example.sha256, view.caption) for view in views if view.caption}
        images = {sha256 for sha256, _ in captions}
        lines.append(f"Tags: {len(captions)} captions of {len(images)} images.")
    if data.sets and views:
        shares = zip(set_names(data), shares_of(views, len(folders)), strict=True)
        lines.append(f"Share of the draws: {', '.join(f'{name} {share:.0%}' for name, share in shares)}.")
    return lines


def shares_of(views: Sequence[View], count: int) -> list[float]:
    """The share of the draws that each of ``count`` sets has."""
    draws = [0] * count
    for view in {(view.example, view.size): view for view in views}.values():
        draws[view.example.dataset] += view.example.repeats * view.draws
    return [number / sum(draws) for number in draws]


TokenCounter = Callable[[str], tuple[int, int]]
"""Caption -> (its tokens, tokens that are read) of the encoder that reads most: T5 reads on after CLIP."""


class _Measured:
    """A tokenizer that notes how long each text would be uncut, and where it is cut."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.counts: list[tuple[int, int]] = []

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        if limit := options.get("max_length"):
            ids = self._tokenizer(list(texts), truncation=False, verbose=False).input_ids
            self.counts += [(len(row), limit) for row in ids]
        return self._tokenizer(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def token_counter(
    family: "Family", source: "Source", units: Iterable["Unit"], placeholder: "Placeholder | None" = None
) -> TokenCounter:
    """What counts the tokens of a caption as the family's own units make them, templates of chats included.

    Args:
        family: Of the base.
        source: Its files; its tokenizers are loaded.
        units: The family's, with their constants bound.
        placeholder: A new word, which may be several tokens.

    Raises:
        BadBase: A tokenizer is missing or damaged.
    """
    import torch

    from limner.models.loading import LOAD_ERRORS, load  # with torch, which sets are read without

    tokenizing = [unit for unit in units if unit.uses and is_tokenizer(unit.uses[0])]
    device = torch.device("cpu")
    tokenizers = {
        name: load(family, source, name, dtype=torch.float32, device=device)
        for name in (unit.uses[0] for unit in tokenizing)
    }
    tokenizers = {
        name: _Measured(placeholder.taught(name, item) if placeholder else item)
        for name, item in tokenizers.items()
    }

    def count(caption: str) -> tuple[int, int]:
        for tokenizer in tokenizers.values():
            tokenizer.counts.clear()
        for unit in tokenizing:
            try:
                unit.run(tokenizers, {"caption": (caption,)})
            except LOAD_ERRORS as error:
                raise BadBase(
                    f"{source.name}: {unit.uses[0]}/ cannot be used: {first_line(error)}. {source.again}"
                ) from error
        pairs = [pair for tokenizer in tokenizers.values() for pair in tokenizer.counts]
        return max(pairs, key=lambda pair: (pair[1], pair[0]), default=(0, 0))

    return count


def cut_captions(
    counter: Callable[[], TokenCounter], captions: Iterable[str], tokenizers: str = ""
) -> list[str]:
    """A line on the captions of which the end is not read; nothing where all are read whole.

    Of many captions what was counted is kept for the next start: 100,000 take half a minute.

    Args:
        counter: Makes what ``token_counter`` gives.
        captions: As training reads them, the trigger included.
        tokenizers: What tells these tokenizers, and how they are used, from others; empty: nothing is kept.
    """
    texts = list(dict.fromkeys(captions))
    count = _cut_count if len(texts) < MIN_CAPTIONS or not tokenizers else partial(_kept_count, tokenizers)
    excess, limit, longest = count(counter, texts)
    if not excess:
        return []
    return [
        f"{excess} of {len(texts)} captions have more than the {limit} tokens that are read (the "
        f"longest has {longest}); the rest is not read. Put what matters first, or shorten them."
    ]


def _cut_count(counter: Callable[[], TokenCounter], texts: Sequence[str]) -> tuple[int, int, int]:
    """How many texts are longer than is read, how many tokens are read, and how many the longest has."""
    counts = list(map(counter(), texts))
    excess = [count for count, limit in counts if count > limit]
    return len(excess), counts[0][1] if counts else 0, max(excess, default=0)


def _kept_count(
    tokenizers: str, counter: Callable[[], TokenCounter], texts: Sequence[str]
) -> tuple[int, int, int]:
    """The same, of texts that were counted at an earlier start without a tokenizer."""
    name = hashlib.sha256("\0".join((tokenizers, *texts)).encode()).hexdigest()
    path = user_cache("captions") / "cut.json"
    counts: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # there is none, or it is damaged
        counts = dict(json.loads(path.read_bytes()))
    match counts.get(name):
        case [int(excess), int(limit), int(longest)]:
            return excess, limit, longest
    counts.pop(name, None)
    result = _cut_count(counter, texts)
    with suppress(OSError):
        write_text(path, json.dumps(dict([*counts.items(), (name, result)][-MAX_COUNTS:])))
    return result


def class_images(recipe: Recipe, folder: Path) -> list[Example]:
    """Examples of class images.

    Raises:
        BadData: A caption has the trigger in it, which would teach the trigger to mean nothing.
    """
    examples = list(read_folder(folder, min_side=recipe.data.min_side or 0).examples)
    for example, trigger in product(examples, recipe.data.triggers):
        if any(has_word(trigger, caption) for caption in example.captions):
            raise BadData(
                f"{example.path}: its caption has the trigger {trigger!r}, and it is a picture of the prior. "
                "Name there what the base knows, without the trigger."
            )
    return examples
