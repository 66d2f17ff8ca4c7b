"""What lies below a folder, by kind and name. No link to a folder is followed.

A file is opened for its first bytes alone, and only where its ending says nothing.
"""

import os
import re
import time
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path

from limner.data.captions import NAMES, SIDECARS, UNSUPPORTED_NAMES
from limner.data.formats import ARCHIVES, FOREIGN, SUFFIXES, odd_image
from limner.data.images import REGION
from limner.errors import BadData

SYSTEM_FOLDERS = frozenset(
    ("@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found")
)
"""Folders that storage devices and systems make for themselves, in lower case."""

TEXT_SUFFIXES = frozenset(
    [
        ".txt",
        ".caption",
        ".captions",
        ".cap",
        ".tag",
        ".tags",
        ".text",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".yaml",
        ".yml",
        ".xml",
    ]
)
"""Endings of files that other tools keep captions in: those that are not read are named."""

_OWN_TEXTS = re.compile(r"captions\.jsonl|readme.*|licen[cs]e.*", re.IGNORECASE)
_MASK = re.compile(r"(.+)[-_. ](?:mask|masklabel|condlabel|control|conditioning)", re.IGNORECASE | re.DOTALL)
_MASK_FOLDERS = frozenset(
    ("mask", "masks", "control", "conditioning", "conditioning_images", "control_images")
)
_OTHER_SPLITS = frozenset(
    ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
)  # as the imagefolder of datasets calls them


MAX_REPEATS = 999
"""A folder called 2024_paris is a year, not 2024 repeats."""
REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
"""How kohya calls a folder: how often an epoch shows its images, and what they are called."""
_COMMON = (SUFFIXES - FOREIGN.keys()) | {*SIDECARS}
"""Endings of nearly all files, of which nothing is asked but that they are files."""

Stamps = dict[str, tuple[int, int]]
"""Folder -> times of its entries and of its inode, nanoseconds since 1970."""
SETTLE_SECONDS = 2.0
"""Seconds for which a folder must have been untouched: some file systems tell no finer times."""
MIN_KEPT = 256
"""Images of a folder from which on a listing may be kept for the next who asks."""


@dataclass(slots=True)
class Listing:
    """Paths relative to the folder, with "/", sorted."""

    images: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """Path without ending -> sidecar."""
    crops: dict[str, str] = field(default_factory=dict)
    """Path without ending -> file that says which part of the image counts."""
    metadata: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Path, reason: what looks like part of a data set and cannot be."""
    masks: list[str] = field(default_factory=list)
    """Masks and control images of other images; a metadata file may still name one as an image."""
    splits: dict[str, int] = field(default_factory=dict)
    """Folder of test or validation images -> how many. They are not among ``images``."""
    unread_texts: list[str] = field(default_factory=list)
    """Text files that look like captions and belong to no image."""
    archives: list[str] = field(default_factory=list)
    stamps: Stamps = field(default_factory=dict)
    """Of all folders, as they were before they were listed; none where these do not tell of every change."""
    folders_tell: bool = True
    """Whether there are no links, no faults, and no files that had to be looked into."""

    def sidecar_of(self, image: str, files: dict[str, str]) -> str | None:
        """The file of ``texts`` or ``crops`` that belongs to an image; None where there is none.

        Names are compared composed where they differ as they stand: macOS writes them decomposed.
        """
        if not files:
            return None
        stem = _stem(image)
        return files.get(stem) or files.get(_composed(stem))

    def companions(self) -> dict[str, list[str]]:
        """Image -> the masks and control images that are named after it, of those that have any."""
        images: dict[str, list[str]] = {}
        for image in self.images:
            images.setdefault(_name(_stem(image)), []).append(image)
        companions: dict[str, list[str]] = {}
        for mask in self.masks:
            stem = _name(_stem(mask))
            match = _MASK.fullmatch(stem)
            for image in (images.get(match[1], []) if match else []) or images.get(stem, []):
                if _lies_by(mask, image):
                    companions.setdefault(image, []).append(mask)
        return companions


def listed(root: Path, *, keep: bool = False) -> Listing:
    """Everything below ``root`` whose name does not begin with a dot, and that no system put there.

    Args:
        root: The folder.
        keep: Keep the listing of a large folder, which then nobody may change, for the next who asks. Whoever
            does not keep it is given it, as long as no folder has changed.

    Raises:
        BadData: ``root`` is not a folder or cannot be read.
    """
    path = root.absolute()
    listing = _KEPT.pop(path, None)
    if listing is None or not unchanged(root, listing.stamps):
        listing = _listed(root)
    if keep and listing.stamps and len(listing.images) >= MIN_KEPT:
        _KEPT[path] = listing
    return listing


_KEPT: dict[Path, Listing] = {}


def unchanged(root: Path, stamps: Stamps) -> bool:
    """Whether folders below ``root`` are as they were."""
    try:
        return all(_stamp(root, folder) == stamp for folder, stamp in stamps.items())
    except OSError:
        return False


def _stamp(root: Path, folder: str) -> tuple[int, int]:
    facts = (root / folder).stat()
    return facts.st_mtime_ns, facts.st_ctime_ns


def _listed(root: Path) -> Listing:
    """The same, looked at now."""
    if not root.is_dir():
        fault = "is a file, not a folder" if root.is_file() else "does not exist"
        raise BadData(f"{root} {fault}. Name a folder of images.")
    listing, start = Listing(), time.time()
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in _entries(root, folder, listing):
            file = f"{folder}/{entry.name}" if folder else entry.name
            suffix = _suffix(entry.name).lower()
            problem = _problem(entry, suffix)
            listing.folders_tell &= not (problem or entry.is_symlink())
            if problem:
                listing.rejected.append((file, problem))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(file)
            elif _is_file(entry):
                _sort_in(listing, entry.name, file, suffix, root)
    latest = max(chain.from_iterable(listing.stamps.values()), default=0) / 1e9
    if not listing.folders_tell or start - latest < SETTLE_SECONDS:
        listing.stamps = {}
    listing.images.sort()
    listing.metadata.sort()
    for files in (listing.texts, listing.crops):
        for stem, file in [pair for pair in files.items() if not pair[0].isascii()]:
            files.setdefault(_composed(stem), file)
    _leave_out_splits(listing)
    _leave_out_masks(listing)
    _find_unread_texts(listing)
    return listing


def _entries(root: Path, folder: str, listing: Listing) -> "list[os.DirEntry[str]]":
    """What lies in a folder, by name; nothing, and a reason in the listing, where it cannot be read."""
    try:
        listing.stamps[folder] = _stamp(root, folder)
        entries = [entry for entry in os.scandir(root / folder) if not _passed_over(entry)]
    except OSError as error:
        if not folder:
            raise BadData(f"{root} cannot be read ({error.strerror}). Check its permissions.") from error
        listing.rejected.append((folder, f"cannot be read ({error.strerror}). Check its permissions."))
        return []
    return sorted(entries, key=lambda entry: entry.name)


def printable(name: str) -> str:
    """A file name as text that any terminal or file can take: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def _passed_over(entry: "os.DirEntry[str]") -> bool:
    return entry.name.startswith(".") or (entry.name.lower() in SYSTEM_FOLDERS and _is_folder(entry))


def _problem(entry: "os.DirEntry[str]", suffix: str) -> str:
    """Why an entry that looks like pictures or captions cannot be used; empty when it can, or is neither."""
    if suffix in _COMMON and entry.name.isascii() and entry.is_file(follow_symlinks=False):
        return ""
    folder = _is_folder(entry)
    if entry.name in NAMES or suffix in SIDECARS:
        return (
            "" if _is_file(entry) else "holds captions by its name, and is no file. Remove it, or write it."
        )
    if not folder and suffix not in SUFFIXES and suffix not in FOREIGN:
        return (
            "is not read. If it holds captions, write them as metadata.jsonl."
            if entry.name in UNSUPPORTED_NAMES
            else ""
        )
    if printable(entry.name) != entry.name:
        return "has a name that is not UTF-8. Rename it."
    if folder:
        if suffix in SUFFIXES:
            return "has the name of a picture, and is a folder. Rename it."
        is_link = entry.is_symlink()
        return "is a link to a folder, which is not followed. Copy the folder here." if is_link else ""
    if not _is_file(entry):
        return "is not a file, or a link to nothing. Remove it, or put the image there."
    return f"{FOREIGN[suffix]}." if suffix in FOREIGN else ""


def _sort_in(listing: Listing, name: str, file: str, suffix: str, root: Path) -> None:
    if suffix in SUFFIXES:
        listing.images.append(file)
    elif name in NAMES:
        listing.metadata.append(file)
    elif suffix == REGION:
        listing.crops[_stem(file)] = file
    elif suffix in SIDECARS:
        previous = listing.texts.get(_stem(file), "")
        if previous.lower().endswith(SIDECARS[0]):
            listing.unread_texts.append(file)
        else:
            listing.unread_texts += [previous] if previous else []
            listing.texts[_stem(file)] = file
    elif suffix in TEXT_SUFFIXES:
        listing.unread_texts += [] if _OWN_TEXTS.fullmatch(name) else [file]
    elif suffix in ARCHIVES:
        listing.archives.append(file)
    elif printable(name) == name:
        listing.folders_tell = False
        is_image, reason = odd_image(root / file)
        listing.images += [file] if is_image else []
        listing.rejected += [(file, reason)] if reason else []


def repeats_in(folder: str) -> tuple[int, str] | None:
    """What the name of one of kohya's folders says, 10_cat: (10, cat); None of another folder."""
    match = REPEATS.fullmatch(folder)
    return (repeats, match[2]) if match and 1 <= (repeats := int(match[1][:9])) <= MAX_REPEATS else None


def _stem(file: str) -> str:
    """A path without its ending; a tenth of the time of a Path's own, as large folders want it."""
    ending = _suffix(file)
    return file[: -len(ending)] if ending else file


def _suffix(file: str) -> str:
    """The ending of a name with its dot, as a Path has it: a dot at the start or the end makes none."""
    start, dot = file.rfind("/") + 1, file.rfind(".")
    return file[dot:] if start < dot < len(file) - 1 else ""


def _leave_out_splits(listing: Listing) -> None:
    """Folders of test and validation images are not trained, where there are others."""
    splits = {file: split for file in listing.images if (split := _split(file))}
    if not splits:
        return
    if len(splits) == len(listing.images):
        return
    listing.splits = dict(Counter(splits.values()))
    for name in ("images", "metadata", "unread_texts", "archives"):
        setattr(
            listing, name, [file for file in getattr(listing, name) if _split(file) not in listing.splits]
        )
    listing.rejected = [pair for pair in listing.rejected if _split(pair[0]) not in listing.splits]
    listing.texts = {stem: file for stem, file in listing.texts.items() if _split(file) not in listing.splits}


def _split(file: str) -> str:
    """The folder of test or validation images that a file lies in; "" where it lies in none."""
    return _split_of(file.rpartition("/")[0])


@lru_cache(maxsize=256)
def _split_of(folder: str) -> str:
    folders = folder.split("/") if folder else []
    depth = 1 if folders[:1] == ["data"] else 0
    if len(folders) > depth and folders[depth].lower() in _OTHER_SPLITS:
        return "/".join(folders[: depth + 1])
    return ""


def _leave_out_masks(listing: Listing) -> None:
    """What is named after another image as masks and control images are, and has no caption of its own."""
    mute = [file for file in listing.images if listing.sidecar_of(file, listing.texts) is None]
    if not mute:
        return
    stems = {_stem(file) for file in listing.images}
    names: dict[str, set[str]] = {}
    for file in listing.images:
        names.setdefault(_name(_stem(file)), set()).add(file.rpartition("/")[0])
    masks = [file for file in mute if _is_mask(file, stems, names)]
    listing.masks, mask_set = masks, set(masks)
    listing.images = [file for file in listing.images if file not in mask_set]


def _is_mask(file: str, stems: set[str], names: dict[str, set[str]]) -> bool:
    folder, stem = file.rpartition("/")[0], _stem(file)
    match = _MASK.fullmatch(_name(stem))
    partner = match[1] if match else _name(stem)
    if match and (f"{folder}/{partner}" if folder else partner) in stems:
        return True
    if _name(folder).lower() not in _MASK_FOLDERS:
        return False
    parent = folder.rpartition("/")[0]
    elsewhere = (names.get(partner, set()) | names.get(_name(stem), set())) - {folder}
    return any(other == parent or other.rpartition("/")[0] == parent for other in elsewhere)


def _lies_by(mask: str, image: str) -> bool:
    """Whether a mask lies in an image's folder, below it, or in the folder above."""
    folder, other = mask.rpartition("/")[0], image.rpartition("/")[0]
    parent = folder.rpartition("/")[0]
    return other in (folder, parent) or (bool(folder) and other.rpartition("/")[0] == parent)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _find_unread_texts(listing: Listing) -> None:
    """Captions that belong to no image, which a slip in the name may have caused."""
    used = {_composed(_stem(image)) for image in listing.images}
    loose = {file for stem, file in listing.texts.items() if _composed(stem) not in used}
    listing.texts = {stem: file for stem, file in listing.texts.items() if file not in loose}
    strays = {file for file in loose if not _OWN_TEXTS.fullmatch(_name(file))}
    listing.unread_texts = sorted({*listing.unread_texts, *strays})


def _composed(stem: str) -> str:
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a ring
        return False


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
