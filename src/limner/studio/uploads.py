"""Files that a browser sends: number, sizes and names are limited, and pictures are read before they stay.

A zip is taken apart member by member, never by its own paths: no absolute ones, none that lead out, no links,
and no more bytes than are allowed, whatever its headers say.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from limner.data.captions import SIDECARS
from limner.data.formats import SUFFIXES
from limner.data.images import REGION, BadImage, inspect
from limner.errors import BadUsage
from limner.files import atomic_write, human
from limner.studio.workspace import REPEATS, Workspace, safe_name

TEXT_SUFFIXES = (*SIDECARS, REGION)
METADATA = ("metadata.jsonl", "metadata.csv")
MAX_IMAGE = 128 << 20
"""Bytes of one picture."""
MAX_TEXT = 1 << 20
"""Bytes of a caption file or a configuration; metadata may have 64 times as many."""
MAX_LORA = 4 << 30
HEADER = 8
"""Bytes before the JSON of a safetensors file, which say how long it is."""
MAX_TOTAL = 4 << 30
"""Bytes of one upload, unpacked."""
MAX_FILES = 5000
MAX_DEPTH = 4
"""Folders in a zip or in a folder that is sent, one in the other."""
MAX_RATIO = 200
"""Unpacked bytes of a member by its packed ones; pictures are near 1."""
BLOCK = 1 << 20


class Upload(Protocol):
    """What Streamlit hands over: an open file with a name."""

    @property
    def name(self) -> str:
        """As the browser calls it."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""
        ...


@dataclass
class UploadResult:
    """What became of an upload."""

    paths: list[Path] = field(default_factory=list)
    """Files that were written."""
    rejections: list[str] = field(default_factory=list)
    """What was left out: the name, the reason, what to do."""
    size: int = 0
    """Bytes so far."""


def save_upload(workspace: Workspace, upload: Upload) -> Path:
    """Keep a small text file, such as a configuration to import.

    Raises:
        BadUsage: It is larger than a configuration can be.
    """
    if upload.size > MAX_TEXT:
        raise BadUsage(
            f"{upload.name} has {human(upload.size)}; a configuration has at most {human(MAX_TEXT)}."
        )
    path = workspace.root / ".limner" / "uploads" / _file_name(upload.name)
    upload.seek(0)
    content = upload.read()
    atomic_write(path, lambda draft: draft.write_bytes(content))
    return path


def save_lora(workspace: Workspace, upload: Upload) -> Path:
    """Put a LoRA file into ``loras/``.

    Raises:
        BadUsage: It is no safetensors file, or larger than a LoRA is.
    """
    name = _file_name(upload.name)
    upload.seek(0)
    head = upload.read(HEADER + 1)
    length = int.from_bytes(head[:HEADER], "little")
    if not name.endswith(".safetensors") or head[HEADER:] != b"{" or length > upload.size:
        raise BadUsage(f"{upload.name} is no .safetensors file. Export the LoRA as one, and add that.")
    if upload.size > MAX_LORA:
        raise BadUsage(f"{upload.name} has {human(upload.size)}; at most {human(MAX_LORA)} are taken.")
    path = _free_path(workspace.inside(workspace.loras), name)

    def write(draft: Path) -> None:
        upload.seek(0)
        with draft.open("wb") as file:
            while block := upload.read(BLOCK):
                file.write(block)

    atomic_write(path, write)
    return path


def receive(uploads: Iterable[Upload], folder: Path) -> UploadResult:
    """Put pictures, captions, crops, metadata files and zips of them into a folder of images.

    Folders in a zip, or in a folder that is sent, stay: kohya's repeats and masks are told by them. One that
    holds all the rest does not. A file that is there already keeps its name, and the new one gets a number,
    its caption the same. What is no picture, caption, crop or metadata is left out, and named.

    Args:
        uploads: The files.
        folder: In the workspace; it exists.

    Raises:
        BadUsage: More files or bytes than are allowed.
    """
    result = UploadResult()
    files = [upload for upload in uploads if "/" not in upload.name or not _hidden(upload.name)]
    plain_files = [upload for upload in files if not upload.name.lower().endswith(".zip")]
    paths = _Paths(folder, [upload.name for upload in plain_files])
    for upload in files:
        upload.seek(0)
        if upload.name.lower().endswith(".zip"):
            _unpack(upload, folder, result)
        else:
            _keep(upload.name, upload, paths, result)
    return result


class _Paths:
    """Where the files of one zip, or of one upload, are written.

    Args:
        folder: The folder of images.
        names: Of all files that are sent together, with "/" or "\\".
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        paths = [_posix(name) for name in names]
        tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths}
        top = tops.pop() if len(tops) == 1 else ""
        self._top = "" if REPEATS.match(top) else top
        self._images = {path.with_suffix("") for path in paths if path.suffix.lower() in SUFFIXES}
        self._stems: dict[PurePosixPath, str] = {}
        self._used: dict[Path, set[str]] = {}

    def of(self, name: str) -> Path | None:
        """A path that is not taken; None where a link would lead it out of the folder."""
        path = _posix(name)
        parts = path.parts[1:] if self._top else path.parts
        folder = self.folder.joinpath(*(safe_name(part) for part in parts[:-1][:MAX_DEPTH]))
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            return None
        file_name = _file_name(name)
        key = path.with_suffix("")
        if key in self._images:  # a caption goes the way of its image
            if key not in self._stems:
                self._stems[key] = self._free_stem(folder, Path(file_name).stem)
            file_name = self._stems[key] + Path(file_name).suffix
        return _free_path(folder, file_name)

    def _free_stem(self, folder: Path, stem: str) -> str:
        """A name without its ending that no file of a folder has: ``cat``, ``cat-2`` ..."""
        if folder not in self._used:
            self._used[folder] = (
                {path.stem.lower() for path in folder.iterdir()} if folder.is_dir() else set()
            )
        name, number = stem, 1
        while name.lower() in self._used[folder]:
            number += 1
            name = f"{stem}-{number}"
        self._used[folder].add(name.lower())
        return name


def _posix(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/") or "new")


def _unpack(upload: Upload, folder: Path, result: UploadResult) -> None:
    try:
        with zipfile.ZipFile(upload) as archive:  # pyright: ignore[reportArgumentType]  # it reads and seeks
            members = _members(archive, upload.name)
            paths = _Paths(folder, [member.filename for member in members if not _refusal(member)])
            for member in members:
                if reason := _refusal(member):
                    result.rejections.append(f"{upload.name}: {member.filename}: {reason}")
                    continue
                with archive.open(member) as stream:
                    _keep(member.filename, stream, paths, result)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        result.rejections.append(f"{upload.name} cannot be unpacked: {error}. Pack it again as a plain zip.")


def _members(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MAX_FILES:
        raise BadUsage(f"{name} has {len(members)} files; at most {MAX_FILES} are taken. Split it.")
    return [member for member in members if not _hidden(member.filename)]


def _hidden(name: str) -> bool:
    """Whether a system put it there, beside what a person packed."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") and part != ".." for part in parts)


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why a member is not unpacked; empty where it may be."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "its path leads out of the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a link"
    if member.flag_bits & 1:
        return "it is encrypted"
    if member.file_size > BLOCK and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return f"it unpacks to more than {MAX_RATIO} times its size"
    return ""


def _keep(name: str, stream: IO[bytes] | Upload, paths: _Paths, result: UploadResult) -> None:
    """Write one file, if it is what a folder of images has."""
    file_name = _file_name(name)
    suffix = Path(file_name).suffix.lower()
    is_image, is_metadata = suffix in SUFFIXES, file_name.lower() in METADATA
    if not (is_image or is_metadata or suffix in TEXT_SUFFIXES):
        result.rejections.append(f"{name}: neither a picture, a caption (.txt), a crop nor metadata")
        return
    if len(result.paths) >= MAX_FILES:
        raise BadUsage(f"More than {MAX_FILES} files at once. Send them in parts.")
    limit = MAX_IMAGE if is_image else MAX_TEXT * (64 if is_metadata else 1)
    content = _read(stream, min(limit, MAX_TOTAL - result.size))
    if content is None:
        if result.size + limit > MAX_TOTAL:
            raise BadUsage(f"More than {human(MAX_TOTAL)} at once. Send them in parts.")
        result.rejections.append(f"{name}: larger than {human(limit)}")
        return
    path = paths.of(name)
    if path is None:
        result.rejections.append(f"{name}: its folder is a link here")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda draft: draft.write_bytes(content))
    result.size += len(content)
    if is_image and (reason := _unreadable(path)):
        path.unlink()
        if path.parent != paths.folder:
            with suppress(OSError):  # it holds more
                path.parent.rmdir()
        result.rejections.append(f"{name}: {reason}")
        return
    result.paths.append(path)


def _read(stream: IO[bytes] | Upload, limit: int) -> bytes | None:
    """The content, or None where it is longer: counted while it is read, whatever a header says."""
    blocks, size = [], 0
    while block := stream.read(BLOCK):
        size += len(block)
        if size > limit:
            return None
        blocks.append(block)
    return b"".join(blocks)


def _unreadable(path: Path) -> str:
    try:
        inspect(path)
    except BadImage as error:
        return error.reason
    return ""


def _file_name(name: str) -> str:
    """The last part of a name as a safe one, its ending kept."""
    path = PurePosixPath(name.replace("\\", "/"))
    suffix = safe_name(path.suffix.removeprefix(".")) if path.suffix else ""
    return safe_name(path.stem if suffix else path.name) + (f".{suffix}" if suffix else "")


def _free_path(folder: Path, name: str) -> Path:
    """A path that is not taken: ``cat.png``, ``cat-2.png`` ..."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path
