"""What was found in image files at an earlier start, for as long as they are as they were then.

To read, hash and decode 100,000 images takes minutes; to ask the file system for their times takes seconds.
A file is taken for untouched where its size and its times (of its bytes, and of its inode) are those of then.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self, cast

from limner.data.images import Facts, header, inspect
from limner.data.listing import Stamps, listed, unchanged
from limner.errors import BadData
from limner.files import real_path, user_cache, write_text

FORMAT = 1
"""Bumped when something else is found in a file, or is found otherwise."""
MIN_IMAGES = 256
"""Images of a folder from which on what is found is kept: fewer are looked into in a second."""
SETTLE_SECONDS = 2.0
"""Seconds for which a file must have been untouched: some file systems tell no finer times."""

Stamp = tuple[int, int, int]
"""Bytes of a file; times of its bytes and of its inode, nanoseconds since 1970."""


class FileFacts(NamedTuple):
    """A file that can be used."""

    size: int
    bytes_time: int
    inode_time: int
    sha256: str
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    looks: tuple[int, int] | None = None
    """Its perceptual hash and that of its mirror image, 64 bits each, where somebody asked for them."""

    @property
    def stamp(self) -> Stamp:
        """When it was looked into, by what its file was."""
        return self.size, self.bytes_time, self.inode_time


class FileIndex:
    """What is known of the images of a folder. Threads may share it."""

    def __init__(self, root: Path, *, keep: bool) -> None:
        """Read what an earlier start found.

        Args:
            root: The folder of images.
            keep: Whether anything is to be read from the user's cache, and written to it.
        """
        self.root, self._root, self._text = root, root.absolute(), str(root)
        name = hashlib.sha256(os.fsencode(real_path(root))).hexdigest()[:32]
        self._path = user_cache("images") / f"{name}.json" if keep else None
        self._version = _version(self._path)
        self._rows = _read(self._path) if self._path else {}
        self._dirty = False
        self._current: set[str] = set()
        """Files that were looked at since, and are as they were."""

    @classmethod
    def of(cls, root: Path, count: int) -> Self:
        """The index of a folder with so many images; the one that was kept for whoever asks next."""
        index = _INDEXES.pop(root.absolute(), None)
        if index and index.root == root and index._version == _version(index._path):
            return cast("Self", index)
        return cls(root, keep=count >= MIN_IMAGES)

    def inspect(self, file: str, *, verify: bool = True) -> Facts:
        """Hash and size of an image that can be decoded, as :func:`limner.data.images.inspect` finds them.

        Args:
            file: Its path below the folder, with "/".
            verify: See there; a file that is known was decoded once.

        Raises:
            BadImage: The file cannot be used.
        """
        if self.is_known(file):
            row = self._rows[file]
            return Facts(row.sha256, row.width, row.height)
        stamp, _ = self._look(file)
        facts = inspect(self.root / file, verify=verify)
        if verify and stamp and self._path and _is_settled(stamp):
            self._rows[file] = FileFacts(*stamp, *facts)
            self._dirty = True
        return facts

    def is_known(self, file: str) -> bool:
        """Whether an image was inspected and is as it was then; it is looked at once."""
        if file not in self._current and self._look(file)[1]:
            self._current.add(file)
        return file in self._current

    def size(self, file: str) -> tuple[int, int]:
        """(width, height) of an image, pixels after EXIF rotation, from its header.

        Raises:
            BadImage: The file cannot be used.
        """
        _, row = self._look(file)
        return (row.width, row.height) if row else header(self.root / file)

    def looks(self, path: Path) -> tuple[int, int] | None:
        """The perceptual hashes of an image and of its mirror image, where they are known."""
        file = self._file(path)
        row = self._rows.get(file) if file in self._current else self._look(file)[1]
        return row.looks if row else None

    def add_looks(self, path: Path, looks: tuple[int, int]) -> None:
        """Keep them, of a file that was inspected and is as it was then."""
        file = self._file(path)
        row = self._look(file)[1]
        if row:
            self._rows[file] = row._replace(looks=looks)
            self._dirty = True

    def save(self, files: Iterable[str] | None = None) -> None:
        """Keep what was found for the next start. Where it cannot be kept, nothing is lost.

        Args:
            files: Those that the folder holds: others are forgotten.
        """
        if files is not None and self._path:
            present = set(files)
            absent = [file for file in self._rows if file not in present]
            for file in absent:
                del self._rows[file]
            self._dirty = self._dirty or bool(absent)
        if self._path and self._dirty:
            with suppress(OSError):
                content = {"format": FORMAT, "root": str(self._root), "files": self._rows}
                write_text(self._path, json.dumps(content, separators=(",", ":")))
            self._dirty = False

    def _look(self, file: str) -> tuple[Stamp | None, FileFacts | None]:
        """What the file is now; and what is known of it, if it is as it was."""
        if not (self._path and file):  # no index, or another folder's file
            return None, None
        try:
            facts = os.stat(f"{self._text}/{file}")  # noqa: PTH116  a third of a Path's time, of each of 100,000
        except OSError:
            return None, None
        stamp = facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
        row = self._rows.get(file)
        return stamp, row if row and row[:3] == stamp else None

    def _file(self, path: Path) -> str:
        text, start = str(path), f"{self.root}/"
        if text.startswith(start):  # a tenth of the time of a Path's own
            return text[len(start) :]
        path = path.absolute()
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else ""


def _version(path: Path | None) -> tuple[int, int]:
    """Which of the files that were written there one after the other an index file is."""
    try:
        facts = path.stat() if path else None
    except OSError:
        facts = None
    return (facts.st_ino, facts.st_mtime_ns) if facts else (0, 0)


def _is_settled(stamp: Stamp) -> bool:
    return time.time() - max(stamp[1:]) / 1e9 >= SETTLE_SECONDS


def _read(path: Path) -> dict[str, FileFacts]:
    """What an index file holds; nothing where there is none, or it is damaged or of another version."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            return {}
        rows = {
            file: FileFacts._make((*row[:6], row[6] and tuple(row[6])))
            for file, row in content["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return rows if all(map(_is_sound, rows.values())) else {}


def _is_sound(row: FileFacts) -> bool:
    numbers = (row.size, row.bytes_time, row.inode_time, row.width, row.height, *(row.looks or ()))
    is_hash = isinstance(row.sha256, str) and len(row.sha256) == 64
    return is_hash and all(type(number) is int for number in numbers)


def image_sizes(folder: Path) -> list[tuple[int, int]]:
    """(width, height) of a folder's images, pixels, from their headers; none where there is no folder."""
    if not folder.is_dir():
        return []
    root = folder.absolute()
    previous = _SIZES.pop(root, None)
    if previous and unchanged(root, previous[0]):
        _SIZES[root] = previous
        return list(previous[1])
    listing = listed(folder, keep=True)
    index = FileIndex.of(folder, len(listing.images))
    sizes: list[tuple[int, int]] = []
    shared: dict[tuple[int, int], tuple[int, int]] = {}
    for name in listing.images:
        try:
            size = index.size(name)
        except BadData:
            continue  # told, with the reason, by whoever reads the folder to train on it
        sizes.append(shared.setdefault(size, size))
    if listing.stamps and len(listing.images) >= MIN_IMAGES:
        _SIZES[root], _INDEXES[root] = (listing.stamps, tuple(sizes)), index
    return sizes


_INDEXES: dict[Path, FileIndex] = {}
"""Large folder -> its index, of which the sizes were asked, for whoever reads the images next."""


_SIZES: dict[Path, tuple[Stamps, tuple[tuple[int, int], ...]]] = {}
"""Large folder -> its folders as they were, and sizes of its images: a start asks three times."""
