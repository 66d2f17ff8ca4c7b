"""Files that a reader sees whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limner.errors import DiskFull

UNITS = ("B", "kB", "MB", "GB", "TB")


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


def user_cache(kind: str) -> Path:
    """The folder of Limner's own files of a kind in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "limner" / kind


def shared_cache() -> Path:
    """Where frozen values are kept unless a recipe says otherwise: $LIMNER_CACHE, or the user's cache."""
    override = os.environ.get("LIMNER_CACHE")
    return Path(override) if override else user_cache("cache")


def atomic_write(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place, synced.

    A process killed at any moment leaves the old file or the new one, never a torn one.

    Args:
        path: The file.
        write: Fills the draft.
        sync: Wait for the disk, so that this holds for a loss of power as well. Without, such a loss may
            leave a torn file: only for what is verified when it is read and can be made again.

    Raises:
        DiskFull: The disk had no room; the old file is untouched.
    """
    with _room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        draft = Path(name)
        try:
            write(draft)
            if sync:
                with draft.open("rb+") as file:
                    os.fsync(file.fileno())
            draft.chmod(0o644)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        if sync:
            _sync_folder(path.parent)


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


def _sync_folder(folder: Path) -> None:
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


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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
