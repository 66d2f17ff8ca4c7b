"""A folder of images becomes examples: what is in it, how it is captioned, and what had to be left out."""

import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from limner.data.captions import final, read_sidecar, read_text
from limner.data.images import BadImage, inspect
from limner.data.listing import Listing, listed, printable
from limner.data.metadata import NAMES, Broken, read_metadata
from limner.data.region import region
from limner.errors import BadData

REPEATS_AT_MOST = 999
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
    written: tuple[str, ...] = ()
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
    rejected = [Rejected(root / printable(file), reason) for file, reason in listing.rejected]
    examples: list[Example] = []

    def examine(one: _Candidate) -> Example | Rejected:
        try:
            written = _captions(root, listing, one)
            captions = final(written, trigger=trigger, default=one.name or default_caption)
            facts = inspect(root / one.file, verify=verify)
            part = region(_crop(root, listing, one), facts.width, facts.height)
        except BadData as error:
            return Rejected(root / one.file, error.reason if isinstance(error, BadImage) else str(error))
        example = Example(root / one.file, *facts, captions, one.repeats, part, written)
        left, top, right, bottom = example.extent
        if min(right - left, bottom - top) < min_side:
            return Rejected(
                root / one.file,
                f"has {right - left} x {bottom - top} pixels; the short side needs {min_side}. "
                "Use a larger copy, or lower data.resolution or data.min_side.",
            )
        return example

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(examine, sorted(candidates, key=lambda one: one.file)):
            if isinstance(found, Example):
                examples.append(found)
            else:
                rejected.append(found)
    if not examples:
        raise BadData(_nothing(root, rejected))
    advice = _too_deep(root, candidates) if layout == "sidecar" else ""
    rejected.sort(key=lambda one: str(one.path))  # lines of one file stay in their order
    return Folder(root, layout, tuple(examples), tuple(rejected), advice)


def _too_deep(root: Path, candidates: list[_Candidate]) -> str:
    """A word on folders ``img/10_cat``: it is the one above that kohya is given."""
    folders = {above for one in candidates for above in _above(one.file) if "/" in above}
    found = sorted(folder for folder in folders if _repeats(folder.rpartition("/")[2]))
    if not found:
        return ""
    named = ", ".join([*found[:3], *[".."] * (len(found) > 3)])
    return (
        f"{named}: named as kohya's folders N_name are, and read as plain ones, since they lie below others. "
        f"If N shall count, name {root / _parent(found[0])}"
    )


def _nothing(root: Path, rejected: list[Rejected]) -> str:
    if not rejected:
        return f"{root} holds no images. Put JPEG, PNG or WebP files into it, or name another folder."
    worst = rejected[0]
    more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
    return f"{root} holds no usable image: {worst.path.name} {worst.reason}{more}"


def _captions(root: Path, listing: Listing, one: _Candidate) -> tuple[str, ...]:
    """As they stand in the files."""
    if one.captions:
        return one.captions
    sidecar = listing.texts.get(str(PurePosixPath(one.file).with_suffix("")))
    return read_sidecar(root / sidecar) if sidecar else ()


def _crop(root: Path, listing: Listing, one: _Candidate) -> str:
    if one.crop:
        return one.crop
    sidecar = listing.crops.get(str(PurePosixPath(one.file).with_suffix("")))
    return read_text(root / sidecar, 1000) if sidecar else ""


def _candidates(root: Path, listing: Listing) -> tuple[list[_Candidate], str]:
    """Who rules which image: the nearest metadata file above, else kohya's folders, else its own sidecar."""
    ruled: dict[str, list[str]] = {}
    free: list[str] = []
    folders = {_parent(file): file for file in reversed(listing.metadata)}
    for file in listing.metadata:
        if folders[_parent(file)] != file:
            raise BadData(f"{(root / file).parent} has {' and '.join(NAMES)}. Keep one of them.")
        ruled[file] = []
    for image in listing.images:
        ruler = next((folders[above] for above in _above(image) if above in folders), None)
        (free if ruler is None else ruled[ruler]).append(image)
    found = [one for file, images in ruled.items() for one in _named(root, listing, file, images)]
    kohya = {top for top in {image.split("/")[0] for image in free if "/" in image} if _repeats(top)}
    for image in free:
        top = image.split("/")[0]
        if top in kohya:
            repeats, name = _repeats(top) or (1, "")
            found.append(_Candidate(image, None, repeats, name))
        elif kohya:
            where = f"lies outside the N_name folders ({sorted(kohya)[0]}, ..). Move it into one of them."
            listing.rejected.append((image, where))
        else:
            found.append(_Candidate(image, None))
    layout = PurePosixPath(listing.metadata[0]).name if ruled else "kohya" if kohya else "sidecar"
    return found, layout


def _named(root: Path, listing: Listing, file: str, images: list[str]) -> list[_Candidate]:
    """The images that a metadata file names. Names are compared composed: macOS writes them decomposed."""
    folder = _parent(file)
    at = f"{folder}/" if folder else ""
    there = {unicodedata.normalize("NFC", image): image for image in images}
    found: list[_Candidate] = []
    for row in read_metadata(root / file):
        if isinstance(row, Broken):
            listing.rejected.append((file, row.reason))
            continue
        image = there.pop(unicodedata.normalize("NFC", at + row.file), None)
        if image is None:
            listing.rejected.append(
                (file, f"line {row.line}: {row.file[:120]} is not an image in the folder. Add it.")
            )
        else:
            found.append(_Candidate(image, row.captions, crop=row.crop))
    for image in there.values():
        listing.rejected.append((image, f"is not listed in {file}. Add a line for it."))
    return found


def _repeats(folder: str) -> tuple[int, str] | None:
    match = _REPEATS.fullmatch(folder)
    if match is None or len(match[1]) > len(str(REPEATS_AT_MOST)):
        return None
    return int(match[1]), match[2]


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _above(file: str) -> list[str]:
    parts = file.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
