"""What lies below a folder, by kind and name alone. No file is opened, no link to a folder is followed."""

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from limner.data.captions import NAMES, REGION, SIDECARS, UNSUPPORTED_NAMES
from limner.data.images import FOREIGN, SUFFIXES
from limner.errors import BadData


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


def listed(root: Path) -> Listing:
    """Everything below ``root`` whose name does not begin with a dot.

    Raises:
        BadData: ``root`` is not a folder or cannot be read.
    """
    if not root.is_dir():
        fault = "is a file, not a folder" if root.is_file() else "does not exist"
        raise BadData(f"{root} {fault}. Name a folder of images.")
    listing = Listing()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = [entry for entry in os.scandir(root / folder) if not entry.name.startswith(".")]
        except OSError as error:
            if not folder:
                raise BadData(f"{root} cannot be read ({error.strerror}). Check its permissions.") from error
            listing.rejected.append((folder, f"cannot be read ({error.strerror}). Check its permissions."))
            continue
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = f"{folder}/{entry.name}" if folder else entry.name
            problem = _problem(entry)
            if problem:
                listing.rejected.append((file, problem))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(file)
            elif _is_file(entry):
                _sort_in(listing, entry.name, file)
    listing.images.sort()
    listing.metadata.sort()
    return listing


def printable(name: str) -> str:
    """A file name as text that any terminal or file can take: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def _problem(entry: "os.DirEntry[str]") -> str:
    """Why an entry that looks like pictures or captions cannot be used; empty when it can, or is neither."""
    suffix = PurePosixPath(entry.name).suffix.lower()
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


def _sort_in(listing: Listing, name: str, file: str) -> None:
    path = PurePosixPath(file)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        listing.images.append(file)
    elif name in NAMES:
        listing.metadata.append(file)
    elif suffix == REGION:
        listing.crops[str(path.with_suffix(""))] = file
    elif suffix in SIDECARS:
        stem = str(path.with_suffix(""))
        previous = listing.texts.get(stem, "")
        if not previous.lower().endswith(SIDECARS[0]):
            listing.texts[stem] = file


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
