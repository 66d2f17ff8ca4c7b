"""The verb ``check``: what will the model see, what is wrong with it, and what to do. Trains nothing."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limner.checking import findings as judged
from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import Look, look
from limner.checking.near_duplicates import ALIKE
from limner.checking.page import write_page, write_sheet
from limner.data.buckets import buckets
from limner.data.folder import Example, Folder, read_folder
from limner.data.images import BadImage
from limner.data.subject import REMEDY, follows, installed
from limner.data.views import size_of
from limner.errors import BadBase, BadData
from limner.files import write_json
from limner.recipe.schema import Recipe
from limner.reporter import Reporter

RESOLUTION, MULTIPLE = 1024, 16
"""Where the base is not at hand: what the FLUX family is trained at."""
LEVELS = (PROBLEM, ADVICE, NOTE)


@dataclass(frozen=True)
class Base:
    """What check has to know of a base."""

    resolution: int
    multiple: int
    tokens: Callable[[str], tuple[int, int]] | None
    """Caption -> (its tokens, tokens that are read) in the encoder that reads most; None: not at hand."""
    why: str = ""
    """Why it is not at hand."""


@dataclass(frozen=True)
class Checked:
    """What the verb found, and where it wrote it."""

    images: int
    left_out: int
    findings: tuple[Finding, ...]
    """Problems first, then advice, then notes; by image."""
    looks: tuple[Look, ...]
    names: tuple[str, ...]
    folder: Folder
    page: Path
    sheet: Path
    file: Path
    seconds: float

    def count(self, level: str) -> int:
        """How many findings there are of a level."""
        return sum(each.level == level for each in self.findings)

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "images": self.images,
            "left_out": self.left_out,
            **{level: self.count(level) for level in LEVELS},
            "findings": [asdict(each) for each in self.findings],
            "seen": [_seen(name, each) for name, each in zip(self.names, self.looks, strict=True)],
            "page": self.page,
            "sheet": self.sheet,
            "seconds": round(self.seconds, 2),
        }


def check(recipe: Recipe, out: Path, reporter: Reporter, *, encoder: str | None = None) -> Checked:
    """Read everything as training would, judge it, and write a page, a contact sheet and the findings.

    Args:
        recipe: What would be trained.
        out: Folder for ``check.html``, ``check.png`` and ``check.json``; made if it is not there.
        reporter: Where to tell progress.
        encoder: A vision model in transformers layout, by folder or hub id, to judge variety by; None: by
            colours, layout and edges.

    Raises:
        BadData: No image can be used.
        BadBase: The encoder cannot be loaded.
        BadRecipe: ``data.crop`` asks for what is not installed.
    """
    start = time.monotonic()
    base = base_of(recipe)
    follow = follows(recipe.data.crop)
    resolution = recipe.data.resolution or base.resolution
    folder = _read(recipe, resolution)
    sizes = buckets(resolution, multiple=base.multiple)
    looks, broken = _looked(folder.examples, sizes, reporter, follow=follow)
    names = tuple(_name(folder, each.example.path) for each in looks)
    findings = [
        *_left_out(folder, broken),
        *(found for each, name in zip(looks, names, strict=True) for found in judged.of_image(each, name)),
        *judged.of_set(looks, names, recipe.goal),
        *_variety(looks, names, encoder),
        *judged.of_captions([each.example.written for each in looks], names, recipe.data.trigger),
        *judged.of_lengths(_lengths(looks, names, base)),
        *_remarks(recipe, base),
    ]
    findings.sort(key=lambda each: (LEVELS.index(each.level), each.image, each.kind))
    out.mkdir(parents=True, exist_ok=True)
    done = Checked(
        images=len(looks),
        left_out=len(folder.rejected) + len(broken),
        findings=tuple(findings),
        looks=tuple(looks),
        names=names,
        folder=folder,
        page=out / "check.html",
        sheet=out / "check.png",
        file=out / "check.json",
        seconds=time.monotonic() - start,
    )
    write_sheet(done.sheet, looks, names, findings, flip=recipe.data.flip)
    write_page(done.page, folder.root.resolve().name, looks, names, findings, flip=recipe.data.flip)
    write_json(done.file, _plain(done.plain()))
    return done


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Without paths of this machine."""
    return {key: item for key, item in value.items() if not isinstance(item, Path)}


def _read(recipe: Recipe, resolution: int) -> Folder:
    wish = recipe.data
    smallest = resolution // 2 if wish.min_side is None else wish.min_side
    return read_folder(
        wish.images, trigger=wish.trigger, default_caption=wish.default_caption, min_side=smallest
    )


def _looked(
    examples: Sequence[Example], sizes: Sequence[tuple[int, int]], reporter: Reporter, *, follow: bool
) -> tuple[list[Look], list[BadImage]]:
    """Every image, measured; those that cannot be read after all."""

    def one(example: Example) -> Look | BadImage:
        try:
            return look(example, size_of(example, sizes), follow=follow)
        except BadImage as error:
            return error

    found: list[Look | BadImage] = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        reporter.progress("look", len(examples)) as steps,
    ):
        for each in pool.map(one, examples):
            found.append(each)
            steps.advance()
    looks = [each for each in found if isinstance(each, Look)]
    broken = [each for each in found if isinstance(each, BadImage)]
    if not looks:
        raise BadData(f"None of {len(found)} images can be read: {broken[0]}")
    return looks, broken


def _left_out(folder: Folder, broken: Sequence[BadImage]) -> list[Finding]:
    found = [(_name(folder, each.path), each.reason) for each in folder.rejected]
    found += [(_name(folder, each.path), each.reason) for each in broken]
    return [Finding(name, PROBLEM, "left-out", *_halves(reason)) for name, reason in found]


def _halves(text: str) -> tuple[str, str]:
    """What is wrong, and what to do: the last sentences of every message."""
    what, _, remedy = text.partition(". ")
    return (what, remedy) if remedy else (text.rstrip("."), "Remove it, or replace it.")


def _name(folder: Folder, path: Path) -> str:
    return path.relative_to(folder.root).as_posix() if path.is_relative_to(folder.root) else path.name


def _variety(looks: Sequence[Look], names: Sequence[str], encoder: str | None) -> list[Finding]:
    if encoder is None:
        points = np.stack([each.features for each in looks])
        return judged.of_variety(points, names, within=ALIKE, means="colours, layout and edges")
    from limner.checking.encoder import WITHIN, encoded

    points = encoded(encoder, [each.thumb for each in looks])
    return judged.of_variety(points, names, within=WITHIN, means=f"the features of {Path(encoder).name}")


def _lengths(looks: Sequence[Look], names: Sequence[str], base: Base) -> Mapping[str, tuple[int, int]]:
    if base.tokens is None:
        return {}
    return {
        name: max(base.tokens(caption) for caption in each.example.captions)
        for name, each in zip(names, looks, strict=True)
    }


def _remarks(recipe: Recipe, base: Base) -> list[Finding]:
    """What could not be looked at."""
    found: list[Finding] = []
    if base.tokens is None:
        why = (
            f"captions were not counted in tokens, and {RESOLUTION} pixels were taken for granted: {base.why}"
        )
        found.append(Finding("", NOTE, "base", why, "Name a base that is on this machine with --base."))
    if recipe.data.crop == "auto" and not installed():
        why = "crops keep the middle, and faces were not looked for: OpenCV 4 and smartcrop are not installed"
        found.append(Finding("", NOTE, "crop", why, f"{REMEDY}."))
    return found


def base_of(recipe: Recipe) -> Base:
    """The base's resolution, bucket sides and tokenizers; where it cannot be opened, why."""
    import torch

    from limner.assembly.resolve import source_of
    from limner.models import family_of
    from limner.models.family import Objective
    from limner.models.loading import load

    try:
        source = source_of(recipe.base, parts=recipe.parts)
        family = family_of(str(source.index.get("_class_name", "")))
        constants = family.constants(source, Objective())
        parts = [name for name in family.parts if name.startswith("tokenizer")]
        device = torch.device("cpu")
        tokenizers = [load(family, source, name, dtype=torch.float32, device=device) for name in parts]
    except BadBase as error:
        return Base(RESOLUTION, MULTIPLE, None, str(error))
    longest = int(constants.get("text_length", 0))
    limits = [_limit(each.model_max_length, longest) for each in tokenizers]

    def tokens(caption: str) -> tuple[int, int]:
        counts = [len(each(caption, truncation=False, verbose=False).input_ids) for each in tokenizers]
        return max(zip(counts, limits, strict=True), key=lambda pair: pair[1])

    return Base(int(source.facts.get("resolution", RESOLUTION)), family.multiple, tokens)


def _limit(own: int, longest: int) -> int:
    """Tokens that are read: a tokenizer without an end of its own has the family's."""
    return min(own, longest) if own > 77 and longest else own


def _seen(name: str, each: Look) -> dict[str, Any]:
    return {
        "image": name,
        "pixels": [each.example.width, each.example.height],
        "bucket": list(each.size),
        "crop": list(each.cut.crop),
        "crop_by": each.cut.why,
        "faces": [list(face) for face in each.cut.faces],
        "enlarged": round(each.enlarged, 3),
        "blur": None if each.sharpness.blur is None else round(each.sharpness.blur, 2),
        "jpeg_quality": each.quality,
        "captions": list(each.example.captions),
    }
