"""A folder of images becomes examples: what is in it, how it is captioned, and what had to be left out."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from limner.data.captions import (
    NAMES,
    BrokenRow,
    MetadataRow,
    final,
    read_metadata,
    read_sidecar,
    read_text,
)
from limner.data.control import (
    ControlFit,
    ControlFolders,
    ControlImage,
    composed,
    read_controls,
    without_controls,
)
from limner.data.file_index import FileIndex
from limner.data.formats import ARCHIVES
from limner.data.images import BadImage, region, small_remedy
from limner.data.listing import MAX_REPEATS, REPEATS, Listing, listed, printable, repeats_in
from limner.data.masks import Mask, Masks
from limner.errors import BadData


@dataclass(frozen=True, slots=True)
class Example:
    """One captioned image."""

    path: Path
    """Where it is now; nothing that is stored depends on it."""
    sha256: str
    """Of the file's bytes, in hex: its name everywhere else."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    captions: tuple[str, ...]
    """At least one; several are variants, of which each draw takes one. The trigger is in them."""
    repeats: int = 1
    """How often an epoch shows it."""
    region: tuple[int, int, int, int] | None = None
    """The part that counts, (left, top, right, bottom) in upright pixels; None: all of it."""
    source_captions: tuple[str, ...] = ()
    """The captions as they stand in the files, before the trigger; none where there are none."""
    caption_file: str = ""
    """What they are from, relative to the folder: a text or metadata file, or, with a "/" at its end, the
    kohya folder whose name they are. Empty where there are none."""
    seed: int | None = None
    """Of the start noise that it was sampled from, where a metadata file says it."""
    controls: tuple[ControlImage, ...] = ()
    """Control images of an edit model, in order; every example of a folder has as many."""
    mask: Mask | None = None
    """What of it the loss sees; None: all."""
    dataset: int = 0
    """Number of the set that it is of, from 0."""

    def __hash__(self) -> int:
        return hash((self.sha256, self.dataset))  # of all that differs; of 100,000 in a fifth of the time

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """The part that counts, (left, top, right, bottom) in upright pixels."""
        return self.region or (0, 0, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file, or a line of a metadata file, that was left out."""

    path: Path
    reason: str
    """What is wrong and what to do, one line, without the path."""
    short_side: int = 0
    """In pixels, of an image that is too small."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds."""

    root: Path
    layout: str
    """``metadata.jsonl``, ``metadata.csv``, ``kohya`` (N_name folders), ``sidecar`` (.txt beside images)."""
    examples: tuple[Example, ...]
    """In the order of their relative paths."""
    rejected: tuple[Rejected, ...]
    advice: str = ""
    """What a person may have meant otherwise; usually nothing."""
    masks: tuple[str, ...] = ()
    """Masks and control images that go with other images: not trained as images. Relative paths."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Folder of test or validation images -> how many, which are not trained."""
    unread: tuple[str, ...] = ()
    """Text files that belong to no image, and archives: not read. Relative paths."""
    surplus_controls: tuple[Path, ...] = ()
    """Control images whose name no image bears."""
    surplus_masks: tuple[Path, ...] = ()
    """Masks whose name no image bears."""
    index: FileIndex | None = field(default=None, compare=False, repr=False)
    """What is kept of its images from one start to the next."""

    def named(self, path: Path) -> str:
        """What a file is called, with "/": two in different sub-folders may share their last name."""
        text, start = str(path), f"{self.root}/"
        if text.startswith(start):  # a tenth of the time of a Path's own
            return text[len(start) :]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: str
    captions: tuple[str, ...] | None
    """None: look for a sidecar."""
    repeats: int = 1
    name: str = ""
    """What a kohya folder calls its images."""
    crop: str | None = None
    """As a metadata file says it; None: look for a sidecar."""
    metadata: str = ""
    """The file that lists it."""
    seed: int | None = None
    """As a metadata file says it."""
    controls: tuple[str, ...] = ()
    """Control images that a metadata file names; none: look for them by name."""


def read_folder(  # noqa: PLR0913  what a recipe says of its images
    root: Path,
    *,
    trigger: str = "",
    default_caption: str = "",
    min_side: int = 0,
    verify: bool = True,
    control: tuple[Path, ...] = (),
    controls_each: int = 0,
    fit: ControlFit | None = None,
    masks: Path | str | None = None,
) -> Folder:
    """Every usable image below ``root``, and by name every one that is not.

    A metadata file rules its folder and those below; what it does not list is left out. Elsewhere, once a top
    folder is called ``N_name``, kohya's rules hold: N repeats, ``name`` for images without a caption, other
    folders left out. Captions are sidecars ``cat.txt`` or ``cat.caption``, one variant a line, or one caption
    in paragraphs; ``cat.crop`` says which part of the image counts. Names that begin with a dot, and folders
    that systems make, are not looked at. Only names and contents below ``root`` count, not where it is.

    Args:
        root: The folder.
        trigger: Replaces ``[trigger]`` in captions, and is put before captions that lack it.
        default_caption: For images with none; empty means the trigger.
        min_side: Pixels. Images whose short side is smaller are left out.
        verify: Decode every image once (50 ms of one core for 24 megapixels), so that damage is found now.
        control: Folders of control images, which lie under the names of their targets.
        controls_each: Control images that an image must have; an image with another number is left out.
        fit: How large control images become; one that the base cannot read is left out.
        masks: ``data.masks``; an image whose mask cannot be used is left out.

    Raises:
        BadData: There is no such folder, a metadata file is broken as a whole, or no image is usable.
    """
    listing = listed(root)
    without_controls(root, listing, control)
    controls, finder = ControlFolders(control), Masks(root, masks, listing)
    candidates, layout = _candidates(root, listing)
    index = FileIndex.of(root, len(candidates))
    rejections = [Rejected(root / printable(file), reason) for file, reason in listing.rejected]
    reader = _Reader(
        root, listing, index, controls, finder, trigger, default_caption, min_side, verify, controls_each, fit
    )
    results = reader.read(sorted(candidates, key=lambda candidate: candidate.file))
    examples = [result for result in results if isinstance(result, Example)]
    rejections += [result for result in results if isinstance(result, Rejected)]
    index.save(candidate.file for candidate in candidates)
    if not examples:
        raise BadData(_nothing(root, rejections, listing.archives))
    rejections.sort(key=lambda rejection: str(rejection.path))  # lines of one file stay in their order
    used = {control.path for example in examples for control in example.controls} | finder.files
    listing.masks = [mask for mask in listing.masks if root / mask not in used]
    excluded = tuple(listing.masks), listing.splits, (*listing.unread_texts, *listing.archives)
    surplus = tuple(controls.surplus), tuple(finder.surplus), index
    advice = _advice(root, layout, candidates)
    return Folder(root, layout, tuple(examples), tuple(rejections), advice, *excluded, *surplus)


@dataclass(frozen=True)
class _Reader:
    """What turns candidates into examples. The fields are the arguments of :func:`read_folder`."""

    root: Path
    listing: Listing
    index: FileIndex
    control_folders: ControlFolders
    masks: Masks
    trigger: str
    default_caption: str
    min_side: int
    verify: bool
    controls_each: int
    fit: ControlFit | None

    def read(self, candidates: list[_Candidate]) -> list[Example | Rejected]:
        """What becomes of each, in their order. Threads are for those that have to be decoded."""
        unknown = [candidate for candidate in candidates if not self.index.is_known(candidate.file)]
        parts = [unknown[start : start + 16] for start in range(0, len(unknown), 16)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            results = pool.map(lambda part: [*map(self.example, part)], parts)
            fresh_results = dict(zip(map(id, unknown), chain.from_iterable(results), strict=True))
        return [fresh_results.pop(id(item), None) or self.example(item) for item in candidates]

    def example(self, candidate: _Candidate) -> Example | Rejected:
        """The example, or why there is none."""
        path = self.root / candidate.file
        try:
            source_captions, source = _captions(self.root, self.listing, candidate)
            default = candidate.name or self.default_caption
            captions = final(source_captions, trigger=self.trigger, default=default)
            facts = self.index.inspect(candidate.file, verify=self.verify)
            crop_region = region(_crop(self.root, self.listing, candidate), facts.width, facts.height)
            controls = self._controls(candidate)
            mask = self.masks.read(candidate.file, (facts.width, facts.height))
        except BadData as error:
            return Rejected(path, error.reason if isinstance(error, BadImage) else str(error))
        origin = (captions, candidate.repeats, crop_region, source_captions, source, candidate.seed)
        example = Example(path, *facts, *origin, controls, mask)
        left, top, right, bottom = example.extent
        if (side := min(right - left, bottom - top)) < self.min_side:
            reason = f"has {right - left} x {bottom - top} pixels; the short side needs {self.min_side}. "
            return Rejected(path, reason + small_remedy(side), side)
        return example

    def _controls(self, candidate: _Candidate) -> tuple[ControlImage, ...]:
        """Those that a metadata file names, else those that bear its name."""
        if not self.controls_each:
            return ()
        files = [[self.root / file] for file in candidate.controls]
        matches = files or self.control_folders.of(candidate.file)
        try:
            return read_controls(matches, self.controls_each, self.fit)
        except BadImage as error:
            raise BadData(f"has a control image that {error.reason}") from error


def _advice(root: Path, layout: str, candidates: list[_Candidate]) -> str:
    """A word on what kohya's names may have been meant for."""
    if layout == "sidecar" and (match := repeats_in(root.resolve().name)):
        return (
            f"{root.name} is named as kohya's folders N_name are, and read as a plain one. "
            f"If {match[0]} repeats shall count, name the folder above it: {root.parent}"
        )
    numbers = sorted({candidate.repeats for candidate in candidates})
    tops = {candidate.file.split("/")[0] for candidate in candidates}
    if layout == "kohya" and len(tops) == len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)):
        return (
            f"The folders' numbers 1 to {numbers[-1]} are read as kohya's repeats: an epoch shows images of "
            f"the last {numbers[-1]} times. If they are for order only, rename the folders."
        )
    return _too_deep(root, candidates) if layout == "sidecar" else ""


def _too_deep(root: Path, candidates: list[_Candidate]) -> str:
    """A word on folders ``img/10_cat``: it is the one above that kohya is given."""
    parents = {_parent(candidate.file) for candidate in candidates}
    folders = {above for parent in parents for above in _above(f"{parent}/") if "/" in above}
    matches = sorted(folder for folder in folders if repeats_in(folder.rpartition("/")[2]))
    if not matches:
        return ""
    listing = ", ".join([*matches[:3], *[".."] * (len(matches) > 3)])
    return (
        f"{listing}: named as kohya's folders N_name are, and read as plain ones, "
        "since they lie below others. "
        f"If N shall count, name {root / _parent(matches[0])}"
    )


def _nothing(root: Path, rejections: list[Rejected], archives: list[str]) -> str:
    if archives and not rejections:
        rest = f" (and {len(archives) - 1} more)" if len(archives) > 1 else ""
        remedy = ARCHIVES[PurePosixPath(archives[0]).suffix.lower()]
        return f"{root} holds no images, but {archives[0]}{rest}, which is not read. {remedy}."
    if not rejections:
        return f"{root} holds no images. Put JPEG, PNG or WebP files into it, or name another folder."
    worst = rejections[0]
    if all(rejection.short_side for rejection in rejections):  # then the remedy fits them all
        worst = min(rejections, key=lambda rejection: rejection.short_side)
    rest = f" (and {len(rejections) - 1} more)" if len(rejections) > 1 else ""
    return f"{root} holds no usable image: {worst.path.name} {worst.reason}{rest}"


def _captions(root: Path, listing: Listing, candidate: _Candidate) -> tuple[tuple[str, ...], str]:
    """As they stand in the files, and what they are from."""
    if candidate.captions:
        return candidate.captions, candidate.metadata
    sidecar = listing.sidecar_of(candidate.file, listing.texts)
    if sidecar and (captions := read_sidecar(f"{root}/{sidecar}")):
        return captions, sidecar
    return (), f"{candidate.file.split('/')[0]}/" if candidate.name else ""


def _crop(root: Path, listing: Listing, candidate: _Candidate) -> str:
    sidecar = None if candidate.crop else listing.sidecar_of(candidate.file, listing.crops)
    return read_text(root / sidecar, 1000) if sidecar else candidate.crop or ""


def _candidates(root: Path, listing: Listing) -> tuple[list[_Candidate], str]:
    """Who rules which image: the nearest metadata file above, else kohya's folders, else its own sidecar."""
    by_metadata: dict[str, list[str]] = {}
    others_left: list[str] = []
    folders = {_parent(file): file for file in reversed(listing.metadata)}
    for file in listing.metadata:
        if folders[_parent(file)] != file:
            raise BadData(f"{(root / file).parent} has {' and '.join(NAMES)}. Keep one of them.")
        by_metadata[file] = []
    for image in listing.images if folders else ():
        ruler = next((folders[above] for above in _above(image) if above in folders), None)
        (others_left if ruler is None else by_metadata[ruler]).append(image)
    others_left = others_left if folders else listing.images
    candidates = [
        candidate for file, images in by_metadata.items() for candidate in _named(root, listing, file, images)
    ]
    kohya = {top for top in {image.split("/")[0] for image in others_left if "/" in image} if repeats_in(top)}
    for image in others_left:
        top = image.split("/")[0]
        if top in kohya:
            repeats, name = repeats_in(top) or (1, "")
            candidates.append(_Candidate(image, None, repeats, name))
        elif kohya:
            listing.rejected.append((image, _outside(top, sorted(kohya)[0])))
        else:
            candidates.append(_Candidate(image, None))
    layout = PurePosixPath(listing.metadata[0]).name if by_metadata else "kohya" if kohya else "sidecar"
    return candidates, layout


def _outside(top: str, kohya: str) -> str:
    """Why an image beside kohya's folders is left out, where ``top`` is the folder that it lies in."""
    if (match := REPEATS.fullmatch(top)) and int(match[1][:9]) == 0:
        return f"lies in {top}, whose number says 0 repeats. Give the folder another number."
    if match:
        return f"lies in {top}, and {match[1][:9]} repeats are more than {MAX_REPEATS}. Rename the folder."
    return f"lies outside the N_name folders ({kohya}, ..). Move it into one of them."


def _named(root: Path, listing: Listing, file: str, images: list[str]) -> list[_Candidate]:
    """The images that a metadata file names. Names are compared composed: macOS writes them decomposed."""
    folder = _parent(file)
    prefix = f"{folder}/" if folder else ""
    masks = [mask for mask in listing.masks if mask.startswith(prefix)]
    available = {composed(image): image for image in (*images, *masks)}
    rows = read_metadata(root / file)
    companions = {
        composed(prefix + other) for row in rows if isinstance(row, MetadataRow) for other in row.companions
    }
    candidates: list[_Candidate] = []
    for row in rows:
        if isinstance(row, BrokenRow):
            listing.rejected.append((file, row.reason))
            continue
        image = available.pop(composed(prefix + row.file), None)
        if image is None:
            listing.rejected.append((file, f"line {row.line}: {_absent(row.file, prefix, available)}"))
        else:
            controls = tuple(prefix + name for name in row.controls)
            words = {"crop": row.crop, "metadata": file, "seed": row.seed, "controls": controls}
            candidates.append(_Candidate(image, row.captions, **words))
    listed_masks = {candidate.file for candidate in candidates}
    listing.masks = [mask for mask in listing.masks if mask not in listed_masks]
    for name, image in available.items():
        if name in companions and image not in listing.masks:
            listing.masks.append(image)
        elif image not in listing.masks:
            listing.rejected.append((image, f"is not listed in {file}. Add a line for it."))
    return candidates


def _absent(name: str, prefix: str, available: Mapping[str, str]) -> str:
    """What a line says whose image is not there."""
    stem = composed(prefix + name)
    similar = next((image for image in available if image.rpartition(".")[0] == stem), None)
    remedy = f", but {similar} is. Write the name with its ending." if similar else ". Add it."
    return f"{name[:120]} is not an image in the folder{remedy}"


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _above(file: str) -> list[str]:
    *parts, _ = file.split("/")
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
