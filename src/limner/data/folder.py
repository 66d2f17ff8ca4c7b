"""A folder of images becomes examples: what is in it, how it is captioned, and what had to be left out."""

import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from limner.data.captions import NAMES, BrokenRow, final, read_metadata, read_sidecar, read_text, region
from limner.data.images import BadImage, inspect
from limner.data.listing import Listing, listed, printable
from limner.errors import BadData

MAX_REPEATS = 999
"""A folder called 2024_paris is a year, not 2024 repeats."""

_REPEATS = re.compile(r"([1-9]\d*)_(.+)", re.DOTALL)


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

    def named(self, path: Path) -> str:
        """What a file is called, with "/": two in different sub-folders may share their last name."""
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


def read_folder(
    root: Path, *, trigger: str = "", default_caption: str = "", min_side: int = 0, verify: bool = True
) -> Folder:
    """Every usable image below ``root``, and by name every one that is not.

    A metadata file rules its folder and those below; what it does not list is left out. Elsewhere, once a top
    folder is called ``N_name``, kohya's rules hold: N repeats, ``name`` for images without a caption, other
    folders left out. Captions are sidecars ``cat.txt`` or ``cat.caption``, one variant a line; ``cat.crop``
    says which part of the image counts. Names that begin with a dot are not looked at. Only names and
    contents below ``root`` count, not where it is.

    Args:
        root: The folder.
        trigger: Replaces ``[trigger]`` in captions, and is put before captions that lack it.
        default_caption: For images with none; empty means the trigger.
        min_side: Pixels. Images whose short side is smaller are left out.
        verify: Decode every image once (50 ms of one core for 24 megapixels), so that damage is found now.

    Raises:
        BadData: There is no such folder, a metadata file is broken as a whole, or no image is usable.
    """
    root = Path(root)
    listing = listed(root)
    candidates, layout = _candidates(root, listing)
    rejections = [Rejected(root / printable(file), reason) for file, reason in listing.rejected]
    examples: list[Example] = []

    def examine(candidate: _Candidate) -> Example | Rejected:
        try:
            source_captions = _captions(root, listing, candidate)
            captions = final(source_captions, trigger=trigger, default=candidate.name or default_caption)
            facts = inspect(root / candidate.file, verify=verify)
            crop_region = region(_crop(root, listing, candidate), facts.width, facts.height)
        except BadData as error:
            return Rejected(
                root / candidate.file, error.reason if isinstance(error, BadImage) else str(error)
            )
        example = Example(
            root / candidate.file, *facts, captions, candidate.repeats, crop_region, source_captions
        )
        left, top, right, bottom = example.extent
        if min(right - left, bottom - top) < min_side:
            return Rejected(
                root / candidate.file,
                f"has {right - left} x {bottom - top} pixels; the short side needs {min_side}. "
                "Use a larger copy, or lower data.resolution or data.min_side.",
            )
        return example

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for result in pool.map(examine, sorted(candidates, key=lambda candidate: candidate.file)):
            if isinstance(result, Example):
                examples.append(result)
            else:
                rejections.append(result)
    if not examples:
        raise BadData(_nothing(root, rejections))
    advice = _too_deep(root, candidates) if layout == "sidecar" else ""
    rejections.sort(key=lambda candidate: str(candidate.path))  # lines of one file stay in their order
    return Folder(root, layout, tuple(examples), tuple(rejections), advice)


def _too_deep(root: Path, candidates: list[_Candidate]) -> str:
    """A word on folders ``img/10_cat``: it is the one above that kohya is given."""
    folders = {above for candidate in candidates for above in _above(candidate.file) if "/" in above}
    matches = sorted(folder for folder in folders if _repeats(folder.rpartition("/")[2]))
    if not matches:
        return ""
    listing = ", ".join([*matches[:3], *[".."] * (len(matches) > 3)])
    return (
        f"{listing}: named as kohya's folders N_name are, and read as plain ones, "
        "since they lie below others. "
        f"If N shall count, name {root / _parent(matches[0])}"
    )


def _nothing(root: Path, rejections: list[Rejected]) -> str:
    if not rejections:
        return f"{root} holds no images. Put JPEG, PNG or WebP files into it, or name another folder."
    worst = rejections[0]
    rest = f" (and {len(rejections) - 1} more)" if len(rejections) > 1 else ""
    return f"{root} holds no usable image: {worst.path.name} {worst.reason}{rest}"


def _captions(root: Path, listing: Listing, candidate: _Candidate) -> tuple[str, ...]:
    """As they stand in the files."""
    if candidate.captions:
        return candidate.captions
    sidecar = listing.texts.get(str(PurePosixPath(candidate.file).with_suffix("")))
    return read_sidecar(root / sidecar) if sidecar else ()


def _crop(root: Path, listing: Listing, candidate: _Candidate) -> str:
    if candidate.crop:
        return candidate.crop
    sidecar = listing.crops.get(str(PurePosixPath(candidate.file).with_suffix("")))
    return read_text(root / sidecar, 1000) if sidecar else ""


def _candidates(root: Path, listing: Listing) -> tuple[list[_Candidate], str]:
    """Who rules which image: the nearest metadata file above, else kohya's folders, else its own sidecar."""
    by_metadata: dict[str, list[str]] = {}
    others_left: list[str] = []
    folders = {_parent(file): file for file in reversed(listing.metadata)}
    for file in listing.metadata:
        if folders[_parent(file)] != file:
            raise BadData(f"{(root / file).parent} has {' and '.join(NAMES)}. Keep one of them.")
        by_metadata[file] = []
    for image in listing.images:
        ruler = next((folders[above] for above in _above(image) if above in folders), None)
        (others_left if ruler is None else by_metadata[ruler]).append(image)
    candidates = [
        candidate for file, images in by_metadata.items() for candidate in _named(root, listing, file, images)
    ]
    kohya = {top for top in {image.split("/")[0] for image in others_left if "/" in image} if _repeats(top)}
    for image in others_left:
        top = image.split("/")[0]
        if top in kohya:
            repeats, name = _repeats(top) or (1, "")
            candidates.append(_Candidate(image, None, repeats, name))
        elif kohya:
            reason = f"lies outside the N_name folders ({sorted(kohya)[0]}, ..). Move it into one of them."
            listing.rejected.append((image, reason))
        else:
            candidates.append(_Candidate(image, None))
    layout = PurePosixPath(listing.metadata[0]).name if by_metadata else "kohya" if kohya else "sidecar"
    return candidates, layout


def _named(root: Path, listing: Listing, file: str, images: list[str]) -> list[_Candidate]:
    """The images that a metadata file names. Names are compared composed: macOS writes them decomposed."""
    folder = _parent(file)
    prefix = f"{folder}/" if folder else ""
    available = {unicodedata.normalize("NFC", image): image for image in images}
    candidates: list[_Candidate] = []
    for row in read_metadata(root / file):
        if isinstance(row, BrokenRow):
            listing.rejected.append((file, row.reason))
            continue
        image = available.pop(unicodedata.normalize("NFC", prefix + row.file), None)
        if image is None:
            listing.rejected.append(
                (file, f"line {row.line}: {row.file[:120]} is not an image in the folder. Add it.")
            )
        else:
            candidates.append(_Candidate(image, row.captions, crop=row.crop))
    for image in available.values():
        listing.rejected.append((image, f"is not listed in {file}. Add a line for it."))
    return candidates


def _repeats(folder: str) -> tuple[int, str] | None:
    match = _REPEATS.fullmatch(folder)
    if match is None or len(match[1]) > len(str(MAX_REPEATS)):
        return None
    return int(match[1]), match[2]


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _above(file: str) -> list[str]:
    parts = file.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
