"""Changes of a folder of images that can be taken back: captions, and images that were deleted.

They are in a file of ``.limner``, so that a reload or a restart loses none. A change is on record before it
is made.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from limner.data.captions import read_text, split, variants
from limner.data.metadata_edit import with_captions
from limner.errors import BadData, BadUsage
from limner.files import write_json, write_text
from limner.studio.images.image_set import ImageSet

MAX_CHANGES = 100
"""That are remembered, the newest."""


@dataclass(frozen=True)
class Change:
    """One thing that a person did."""

    title: str
    """For people: what undoing it is about."""
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Text file, relative to the folder -> what it said before and after; empty: there was none."""
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Image -> the same of its captions in a metadata file."""
    moves: list[tuple[str, str]] = field(default_factory=list)
    """Where files were, relative to the folder, and where they are, relative to the trash."""


class History:
    """The last changes of a set, made and taken back.

    Args:
        images: The set.
    """

    def __init__(self, images: ImageSet) -> None:
        """See the class."""
        self._images, self._path = images, images.own_file("history")
        self._trash = images.workspace.root / ".limner" / "trash" / images.sign

    def changes(self) -> list[Change]:
        """What can be taken back, the newest last."""
        try:
            rows = json.loads(self._path.read_bytes())
            return [_change(row) for row in rows]
        except (OSError, ValueError, LookupError, TypeError):
            return []

    def write(self, title: str, texts: Mapping[str, str], texts_before: Mapping[str, str]) -> list[str]:
        """Write captions.

        Args:
            title: What undoing it will be called.
            texts: Image -> the new text of its text file, or of its line in the metadata file that counts; an
                empty one removes the text file.
            texts_before: Image -> the text that the person had before them.

        Returns:
            Images that somebody else has changed meanwhile: they keep what they have.

        Raises:
            BadData: A text cannot be a caption; nothing is written.
        """
        new_texts = {file: _clean(file, text) for file, text in texts.items()}
        with self._lock():
            change, conflicts = Change(title), []
            images = ImageSet(self._images.workspace, self._images.folder)  # as the files are now
            for file, text in new_texts.items():
                is_listed = images.metadata_of(file) is not None
                before = images.caption(file) if is_listed else images.text(file)
                text = "\n".join(variants(split(text))) if is_listed else text  # as it will be read
                if before != texts_before[file].strip():
                    conflicts.append(file)
                elif before != text:
                    pair = (before, text)
                    (change.rows if is_listed else change.texts)[
                        file if is_listed else self._sidecar(file)
                    ] = pair
            if change.texts or change.rows:
                self._record(change)
                self._put_rows({file: text for file, (_, text) in change.rows.items()})
                for name, (_, text) in change.texts.items():
                    self._put(name, text)
        return conflicts

    def delete(self, file: str) -> None:
        """Move an image, and what belongs to it, to the trash.

        Raises:
            BadUsage: It cannot be moved.
        """
        with self._lock():
            folder = f"{time.time_ns()}"
            moves = [(name, f"{folder}/{name}") for name in (file, *self._images.belongings(file))]
            self._record(Change(f"deletion of {file}", moves=moves))
            for source, target in moves:
                _move(self._images.folder / source, self._trash / target)

    def undo(self) -> tuple[Change, list[str]] | None:
        """Take the newest change back.

        Returns:
            The change, and the files that stay as they are, because they were changed since; None where
            there is no change.
        """
        with self._lock():
            changes = self.changes()
            if not changes:
                return None
            change, conflicts = changes[-1], []
            for name, (before, after) in change.texts.items():
                if self._text(name) == after:
                    self._put(name, before)
                else:
                    conflicts.append(name)
            rows = {file: before for file, (before, after) in change.rows.items() if self._row(file) == after}
            conflicts += change.rows.keys() - rows.keys()
            self._put_rows(rows)
            for source, target in change.moves:
                if not (self._trash / target).exists():
                    continue
                if os.path.lexists(self._images.folder / source):
                    conflicts.append(source)
                else:
                    _move(self._trash / target, self._images.folder / source)
            self._save(changes[:-1])
        return change, conflicts

    def _record(self, change: Change) -> None:
        self._save([*self.changes(), change][-MAX_CHANGES:])

    def _save(self, changes: Sequence[Change]) -> None:
        write_json(self._path, [asdict(change) for change in changes])

    def _lock(self) -> FileLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_suffix(".lock"), timeout=30)

    def _sidecar(self, file: str) -> str:
        return self._images.store.sidecar(file).relative_to(self._images.folder).as_posix()

    def _text(self, name: str) -> str:
        path = self._images.folder / name
        try:
            return read_text(path).replace("\r\n", "\n").strip() if path.exists() else ""
        except BadData:
            return "\0"  # what no caption is

    def _row(self, file: str) -> str | None:
        """The captions of an image in a metadata file, as they are now; None where none has a line for it."""
        return ImageSet(self._images.workspace, self._images.folder).row(file)

    def _put_rows(self, texts: Mapping[str, str]) -> None:
        """Write captions into the metadata files that have a line for them."""
        images = ImageSet(self._images.workspace, self._images.folder)
        for path in {home[0] for file in texts if (home := images.home_of(file))}:
            homes = {file: images.home_of(file) for file in texts}
            names = {home[1]: texts[file] for file, home in homes.items() if home and home[0] == path}
            write_text(path, with_captions(path, names))

    def _put(self, name: str, text: str) -> None:
        path = self._images.folder / name
        if text:
            write_text(path, f"{text}\n")
        else:
            path.unlink(missing_ok=True)


def _change(row: Any) -> Change:
    texts = {str(name): (str(before), str(after)) for name, (before, after) in row["texts"].items()}
    rows = {str(file): (str(before), str(after)) for file, (before, after) in row.get("rows", {}).items()}
    moves = [(str(source), str(target)) for source, target in row["moves"]]
    return Change(str(row["title"]), texts, rows, moves)


def _clean(file: str, text: str) -> str:
    """A text as it is written.

    Raises:
        BadData: It is too long, or no text.
    """
    text = text.replace("\r\n", "\n").strip()
    try:
        captions = variants(split(text))
    except BadData as error:
        raise BadData(f"{file}: {error}") from error
    return text if captions else ""


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise BadUsage(f"{source} cannot be moved: {error.strerror}. Check its permissions.") from error
