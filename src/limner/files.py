"""Files that a reader sees whole or not at all."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from limner.errors import DiskFull

UNITS = ("B", "kB", "MB", "GB", "TB")
DRAFT = re.compile(r"\.limner-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[a-z0-9_]{8}\.part")
"""Folders in which files are drafted, by whom."""
OLD = ".old"
"""In such a folder: what goes, once the new is in place."""
DRAFT_AGE = 86400
"""Seconds after which a draft of another machine counts as one of a dead process."""


def human(size: float) -> str:
    """A number of bytes for people, decimal units: ``human(1_230_000) == '1.2 MB'``."""
    for unit in UNITS[:-1]:
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


def require_space(folder: Path, size: int, subject: str) -> None:
    """Raise ``DiskFull`` unless ``size`` bytes are free where ``folder`` is or will be."""
    ancestor = folder
    while not ancestor.exists():
        ancestor = ancestor.parent
    free = shutil.disk_usage(ancestor).free
    if free < size:
        raise DiskFull(
            f"{subject} needs {human(size)} and {human(free)} are free on the disk of {folder}. "
            f"Free {human(size - free)}, or choose a folder on another disk."
        )


def real_path(path: Path) -> Path:
    """The absolute path without links; of links in a ring as far as it goes, where Python's own raises."""
    return Path(os.path.realpath(path))


def user_path(name: str | Path) -> Path:
    """The path with "~" from the home folder; of an unknown user it stays, where Python's own raises."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def user_cache(kind: str) -> Path:
    """The folder of Limner's own files of a kind in the user's cache."""
    return user_path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "limner" / kind


def shared_cache() -> Path:
    """Where frozen values are kept unless a recipe says otherwise: $LIMNER_CACHE, or the user's cache."""
    override = os.environ.get("LIMNER_CACHE")
    return Path(override) if override else user_cache("cache")


def atomic_write(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place, synced.

    A process killed at any moment leaves the old file or the new one, never a torn one.

    Args:
        path: The file.
        write: Fills the draft, which has the same name and is not there yet.
        sync: Wait for the disk, so that this holds for a loss of power as well. Without, such a loss may
            leave a torn file: only for what is verified when it is read and can be made again.

    Raises:
        DiskFull: The disk had no room; the old file is untouched.
    """
    with _room_for(path), draft_of(path) as draft:
        write(draft)
        if sync:
            sync_file(draft)
        draft.chmod(0o644)
        draft.replace(path)
        if sync:
            sync_folder(path.parent)


def write_new(folder: Path, stem: str, suffix: str, write: Callable[[Path], object]) -> Path:
    """The same for a file that must not take the place of another: ``stem.png``, else ``stem-2.png``, ..

    It is put in place by a hard link, which fails where a file has appeared meanwhile; a disk without hard
    links is looked at first.

    Args:
        folder: Where to write.
        stem: Its name as long as nobody has it.
        suffix: Its ending, with the dot.
        write: Fills the draft.

    Returns:
        The file.

    Raises:
        DiskFull: The disk had no room.
    """
    with _room_for(folder), draft_of(folder / f"{stem}{suffix}") as draft:
        write(draft)
        sync_file(draft)
        draft.chmod(0o644)
        paths = (folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in count(1))
        path = next(path for path in paths if not path.exists() and _placed(draft, path))
        sync_folder(folder)
    return path


def _placed(draft: Path, path: Path) -> bool:
    """Whether the draft got the name, which somebody else may have taken since it was looked for."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError:  # such as exFAT, and some network drives
        draft.replace(path)
    return True


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder, or a file that is written in several steps: filled within the ``with``, then in place.

    A folder that is there already is replaced. Nothing is put in place where an error leaves the ``with``.

    Yields:
        What to fill: not there yet, and beside ``path``.

    Raises:
        DiskFull: The disk had no room; what was there before is untouched.
    """
    with _room_for(path), draft_of(path) as draft:
        yield draft
        if path.is_dir():
            path.rename(draft.parent / OLD)  # whole or gone, whenever this process is killed
        draft.replace(path)
        sync_folder(path.parent)


def new_folder(parent: Path, names: Iterable[str], fill: Callable[[Path], object]) -> Path:
    """A new folder under the first of some names that nobody has; it appears filled.

    Of processes that want the same name one gets it: none renames a folder to one that holds something.

    Args:
        parent: Where it shall be.
        names: As many as it takes.
        fill: Fills the draft, which is there and empty. It must write something.

    Returns:
        The folder.

    Raises:
        DiskFull: The disk had no room.
    """
    with _room_for(parent), draft_of(parent / "folder") as draft:
        draft.mkdir()
        fill(draft)
        paths = (parent / name for name in names)
        path = next(path for path in paths if not path.exists() and _renamed(draft, path))
        sync_folder(parent)
    return path


def _renamed(draft: Path, path: Path) -> bool:
    """Whether the draft got the name, which somebody else may have taken since it was looked for."""
    try:
        draft.rename(path)
    except OSError:
        if path.exists():
            return False
        raise
    return True


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Where ``path`` is drafted: under its own name in a folder of this process's own beside it.

    The folder's name says whose it is, so that one of a dead process is told from one in use; what libraries
    leave beside a file that they write lies in it, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_once(path.parent.absolute())
    prefix = f".limner-{_host()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    try:
        yield folder / path.name
    finally:
        try:
            folder.rmdir()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for what others shall read meanwhile; of a killed process, the next one deletes it."""
    with draft_of(user_cache("scratch") / "folder") as draft:
        draft.mkdir()
        yield draft


def remove_folder(path: Path) -> None:
    """Delete a folder: gone at once for every reader, and a killed process leaves no half of it there."""
    with draft_of(path) as draft:
        path.rename(draft)


def remove_dead_drafts(folder: Path, *, even_living: bool = False) -> None:
    """Delete what killed processes left half-written right in a folder.

    Args:
        folder: May be missing.
        even_living: Delete all drafts: the caller holds a lock under which nobody else writes there.
    """
    for draft in _drafts_in(folder) if even_living else dead_drafts(folder):
        shutil.rmtree(draft, ignore_errors=True)


def dead_drafts(folder: Path) -> list[Path]:
    """The folders right in a folder that hold what killed processes left half-written.

    Of another machine it cannot be seen whether a process lives; its drafts count when they are a day old.
    """
    return [draft for draft in _drafts_in(folder) if _is_dead(draft)]


def _drafts_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if entry.name[0] == ".")  # one of 1,000 files, cheaply
            return [folder / name for name in names if DRAFT.fullmatch(name)]
    except OSError:  # missing, or not ours to read
        return []


@cache
def _remove_once(folder: Path) -> None:
    """What a killed process left in a folder goes before this one first writes there."""
    remove_dead_drafts(folder)


@cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_dead(draft: Path) -> bool:
    """Whether the process that made a draft is gone, by its number and by when the draft was made."""
    import psutil

    match = DRAFT.fullmatch(draft.name)
    try:
        draft_time = draft.stat().st_mtime
    except OSError:  # it was finished or cleared a moment ago
        return False
    try:
        if match is None or match["host"] != _host():
            return time.time() - draft_time > DRAFT_AGE
        return (
            psutil.Process(int(match["pid"])).create_time() > draft_time + 1
        )  # the number was given out again
    except psutil.AccessDenied:  # it lives, and is another user's
        return False
    except psutil.Error:
        return True


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk filled up while writing {path}. Free some space and run again."
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can be asked to."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, atomically."""
    atomic_write(path, lambda draft: draft.write_bytes(text.encode()))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Replace ``path`` by ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def foreign(head: bytes) -> str:
    """What a file is that should be safetensors, by its first 64 bytes, and the remedy; "" when unknown."""
    if head[8:9] == b"{":  # a length of 640 bytes begins as a pickle does
        return ""
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return (
            "is a pickle whatever it is called, and reading a pickle can run any code. "
            "Ask its author for a .safetensors file."
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file. Run `git lfs pull` where it came from."
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")):
        return "is an image, not weights. Name the .safetensors file."
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights. Download it again, with your access token if it is gated."
    return ""


def append_line(path: Path, text: str) -> None:
    """Add one line in one system call, so that two writers never mix their lines."""
    with _room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode() + b"\n")
        finally:
            os.close(handle)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
