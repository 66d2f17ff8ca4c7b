"""The verb ``check``: what will the model see, what is wrong with it, and what to do. Trains nothing."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limner.assembly.base import ImageSizes, Shape
from limner.assembly.datasets import joined_folder, what_sets_hold
from limner.assembly.phases import phase, require_pairs_alike
from limner.checking import findings as judged
from limner.checking.findings import ADVICE, NOTE, PROBLEM, Finding
from limner.checking.image_stats import ImageStats, measure
from limner.checking.mask_findings import of_masks
from limner.checking.page import write_page, write_sheet
from limner.checking.pairs import ControlStats, measure_control, of_pairs
from limner.checking.variety import SAME_KIND
from limner.checking.watermark import frames
from limner.data.control import counted_controls
from limner.data.folder import Example, Folder, read_folder
from limner.data.images import BadImage, decode
from limner.data.subject import REMEDY, follows, installed
from limner.data.summary import not_filling
from limner.data.views import Scale, sizes_of
from limner.errors import BadBase, BadData
from limner.files import real_path, write_json
from limner.models.registry import recognised
from limner.recipe.schema import Limits, Recipe
from limner.reporter import Reporter

SHAPE = Shape(multiple=16, resolution=1024)
"""Where the base is not at hand: what the FLUX family is trained at."""
LEVELS = (PROBLEM, ADVICE, NOTE)
MAX_FRAMES = 1000
"""Images, spread evenly, in which shared marks are looked for first, at 300 kB each. All others are read
again where these share one."""
BATCH = 64
"""Images that are read again at a time."""


@dataclass(frozen=True)
class BaseInfo:
    """What check has to know of a base."""

    shape: Shape
    tokens: Callable[[str], tuple[int, int]] | None
    """Caption -> (its tokens, tokens that are read), as ``caption_limit`` counts them; None: not at hand."""
    reason: str = ""
    """Why it is not at hand."""


@dataclass(frozen=True)
class CheckReport:
    """What the verb found, and where it wrote it."""

    images: int
    left_out: int
    findings: tuple[Finding, ...]
    """Problems first, then advice, then notes; by image."""
    looks: tuple[ImageStats, ...]
    names: tuple[str, ...]
    folder: Folder
    page: Path
    sheet: Path
    file: Path
    seconds: float

    def count(self, level: str) -> int:
        """How many findings there are of a level."""
        return sum(finding.level == level for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "images": self.images,
            "left_out": self.left_out,
            **{level: self.count(level) for level in LEVELS},
            "findings": [asdict(item) for item in self.findings],
            "seen": [_seen(name, item) for name, item in zip(self.names, self.looks, strict=True)],
            "page": self.page,
            "sheet": self.sheet,
            "seconds": round(self.seconds, 2),
        }


def check(recipe: Recipe, out: Path, reporter: Reporter, *, encoder: str | None = None) -> CheckReport:
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
    if recipe.pairs:
        require_pairs_alike(recipe)
        recipe = phase(recipe, "after")
    base = base_of(recipe)
    image_sizes = ImageSizes(recipe.data, base.shape)
    folders = _read(recipe, image_sizes.min_side)
    folder, scales = joined_folder(folders), image_sizes.scales
    for line in (*what_sets_hold(recipe.data, folders), *not_filling(folder.examples, scales)):
        reporter.line(line)
    looks, errors = _looked(folder.examples, scales, reporter, follow=follows(recipe.data.crop))
    controls = _controls(looks)
    names = tuple(_name(folder, item.example.path) for item in looks)
    findings = [
        *_left_out(folder, errors),
        *(
            finding
            for item, name in zip(looks, names, strict=True)
            for finding in judged.of_image(item, name)
        ),
        *judged.of_set(looks, names, recipe.concept_type, partial(_frames_again, looks, reporter)),
        *_variety(looks, names, encoder),
        *of_pairs(looks, names, controls),
        *_captions(recipe, looks, names),
        *of_masks(looks, names, folder, recipe.data.masks),
        *judged.of_lengths(_lengths(looks, names, base)),
        *_remarks(recipe, base),
    ]
    findings.sort(key=lambda item: (LEVELS.index(item.level), item.image, item.kind))
    out.mkdir(parents=True, exist_ok=True)
    report = CheckReport(
        images=len(looks),
        left_out=len(folder.rejected) + len(errors),
        findings=tuple(findings),
        looks=tuple(looks),
        names=names,
        folder=folder,
        page=out / "check.html",
        sheet=out / "check.png",
        file=out / "check.json",
        seconds=time.monotonic() - start,
    )
    _write(report, controls, flip=any(entry.flip for entry in recipe.data.folders))
    return report


def _write(report: CheckReport, controls: Sequence[Sequence[ControlStats]], *, flip: bool) -> None:
    """The sheet, the page and the findings of a report."""
    contents = report.looks, report.names, report.findings
    jpegs = {name: [item.jpeg for item in row] for name, row in zip(report.names, controls, strict=False)}
    write_sheet(report.sheet, *contents, flip=flip)
    write_page(report.page, real_path(report.folder.root).name, *contents, flip=flip, controls=jpegs)
    write_json(report.file, _plain(report.plain()))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Without paths of this machine."""
    return {key: item for key, item in value.items() if not isinstance(item, Path)}


def _read(recipe: Recipe, min_side: int) -> list[Folder]:
    """The folder of each set."""
    folders: list[Folder] = []
    for entry in recipe.data.folders:
        root = entry.images or Path()
        texts = {"trigger": entry.trigger, "default_caption": entry.default_caption}
        pairs: dict[str, Any] = {"masks": entry.masks}
        if entry.control or _reads_controls(recipe.base):
            pairs |= {"control": entry.control, "controls_each": counted_controls(root, entry.control)}
        folders.append(read_folder(root, min_side=min_side, **texts, **pairs))
    return folders


def _captions(recipe: Recipe, looks: Sequence[ImageStats], names: Sequence[str]) -> Iterator[Finding]:
    """Findings on the captions of each set; the name of a kohya folder is one, and not a missing one."""
    for number, entry in enumerate(recipe.data.folders):
        pairs = [
            (look, name)
            for look, name in zip(looks, names, strict=True)
            if look.example.dataset == number and not look.example.caption_file.endswith("/")
        ]
        captions = [look.example.source_captions for look, _ in pairs]
        if captions:
            yield from judged.of_captions(
                captions, [name for _, name in pairs], entry.trigger, entry.default_caption
            )


def _reads_controls(base: str) -> bool:
    """Whether a base is known for an edit model, so that what metadata name as control images are some."""
    match = recognised(base.rstrip("/").rpartition("/")[2])
    return match is not None and match[0].controls[1] > 0


def _controls(looks: Sequence[ImageStats]) -> list[list[ControlStats]]:
    """The control images of each image; none where there are no pairs."""
    rows = [item.example.controls for item in looks if item.example.controls]
    with _pool() as pool:
        return [list(pool.map(measure_control, row)) for row in rows]


def _looked(
    examples: Sequence[Example], scales: Sequence[Scale], reporter: Reporter, *, follow: bool
) -> tuple[list[ImageStats], list[BadImage]]:
    """Every image, measured; those that cannot be read after all."""
    keeping = set(judged.spread(len(examples), MAX_FRAMES))

    def measure_one(index: int) -> ImageStats | BadImage:
        example = examples[index]
        try:
            return measure(
                example, tuple(sizes_of(example, scales)), follow=follow, keep_frames=index in keeping
            )
        except BadImage as error:
            return error

    results: list[ImageStats | BadImage] = []
    with _pool() as pool, reporter.progress("look", len(examples)) as steps:
        for result in pool.map(measure_one, range(len(examples))):
            results.append(result)
            steps.advance()
    looks = [result for result in results if isinstance(result, ImageStats)]
    failures = [result for result in results if isinstance(result, BadImage)]
    if not looks:
        raise BadData(f"None of {len(results)} images can be read: {failures[0]}")
    return looks, failures


def _frames_again(
    looks: Sequence[ImageStats], reporter: Reporter, indices: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of images that kept none, a few in memory at a time."""

    def read(index: int) -> np.ndarray | None:
        try:
            return frames(decode(looks[index].example.path)[0])
        except BadImage:  # it was read before: somebody has taken it away since
            return None

    with _pool() as pool, reporter.progress("look for marks", len(indices)) as steps:
        for start in range(0, len(indices), BATCH):
            batch = indices[start : start + BATCH]
            for index, result in zip(batch, pool.map(read, batch), strict=True):
                steps.advance()
                if result is not None:
                    yield index, result


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _left_out(folder: Folder, failures: Sequence[BadImage]) -> list[Finding]:
    reasons = [(_name(folder, item.path), item.reason) for item in folder.rejected]
    reasons += [(_name(folder, item.path), item.reason) for item in failures]
    return [Finding(name, PROBLEM, "left-out", *_halves(reason)) for name, reason in reasons]


def _halves(text: str) -> tuple[str, str]:
    """What is wrong, and what to do: the last sentences of every message."""
    fault, _, remedy = text.partition(". ")
    return (fault, remedy) if remedy else (text.rstrip("."), "Remove it, or replace it.")


def _name(folder: Folder, path: Path) -> str:
    return path.relative_to(folder.root).as_posix() if path.is_relative_to(folder.root) else path.name


def _variety(looks: Sequence[ImageStats], names: Sequence[str], encoder: str | None) -> list[Finding]:
    if encoder is None:
        points = np.stack([item.features for item in looks])
        return judged.of_variety(points, names, max_distance=SAME_KIND, basis="colours, layout and edges")
    from limner.checking.encoder import SAME_KIND_DISTANCE, encoded

    points = encoded(encoder, (item.thumb for item in looks))
    return judged.of_variety(
        points, names, max_distance=SAME_KIND_DISTANCE, basis=f"the features of {Path(encoder).name}"
    )


def _lengths(
    looks: Sequence[ImageStats], names: Sequence[str], base: BaseInfo
) -> Mapping[str, tuple[int, int]]:
    if base.tokens is None:
        return {}
    return {
        name: max(
            (base.tokens(caption) for caption in item.example.captions), key=lambda pair: pair[0] - pair[1]
        )
        for name, item in zip(names, looks, strict=True)
    }


def _remarks(recipe: Recipe, base: BaseInfo) -> list[Finding]:
    """What could not be looked at."""
    findings: list[Finding] = []
    if base.tokens is None:
        side = SHAPE.resolution
        reason = (
            f"captions were not counted in tokens, and {side} pixels were taken for granted: {base.reason}"
        )
        findings.append(Finding("", NOTE, "base", reason, "Name a base that is on this machine with --base."))
    if recipe.data.crop == "auto" and not installed():
        reason = (
            "crops keep the middle, and faces were not looked for: OpenCV 4 and smartcrop are not installed"
        )
        findings.append(Finding("", NOTE, "crop", reason, f"{REMEDY}."))
    return findings


def base_of(recipe: Recipe) -> BaseInfo:
    """The base's resolution, bucket sides and tokenizers; where it cannot be opened, why."""
    from limner.assembly.datasets import token_counter
    from limner.assembly.resolve import resolve_base
    from limner.models.family import Objective

    here = recipe.model_copy(update={"limits": Limits()})  # nothing is trained, so the device does not matter
    try:
        base = resolve_base(here)
        counter = token_counter(base.family, base.source, base.family.bound(base.source, Objective()))
    except BadBase as error:
        return BaseInfo(SHAPE, None, str(error))
    return BaseInfo(base.shape, counter)


def _seen(name: str, stats: ImageStats) -> dict[str, Any]:
    return {
        "image": name,
        "pixels": [stats.example.width, stats.example.height],
        "bucket": list(stats.size),
        "smaller_buckets": [list(size) for size in stats.smaller],
        "crop": list(stats.cut.crop),
        "crop_by": stats.cut.reason,
        "faces": [list(face) for face in stats.cut.faces],
        "enlarged": round(stats.upscale, 3),
        "blur": None if stats.sharpness.blur is None else round(stats.sharpness.blur, 2),
        "jpeg_quality": stats.quality,
        "captions": list(stats.example.captions),
        "masked": None if stats.mask is None else round(1 - stats.mask.share, 4),
    }
