"""The verb ``caption``, by hand: the captions of a folder as a table to edit, and taking it over."""

import os
import shlex
import subprocess
from pathlib import Path

from limner.captions import review_table as tables
from limner.captions.provenance import now
from limner.captions.store import CaptionStore
from limner.data.captions import read_text
from limner.data.images import inspect
from limner.errors import BadData, BadUsage
from limner.files import write_text

TABLE_AT_MOST = 1 << 26


def lay_out(folder: Path) -> Path:
    """Write the table of a folder's captions, replacing an older one.

    Returns:
        The table, ``captions.tsv`` in the folder.

    Raises:
        BadData: The folder cannot be used.
        BadUsage: There is a table with edits that have not been taken over.
    """
    store, path = CaptionStore(folder), folder / tables.NAME
    _refuse_unapplied(path, _texts(store))
    write_text(
        path, tables.table([tables.TableRow(f, store.text(f) or "", _note(store, f)) for f in _own(store)])
    )
    return path


def apply(folder: Path) -> list[str]:
    """Take the edited table over: all of it, or none where something is wrong with it.

    What a person wrote there counts as theirs: it is never overwritten afterwards.

    Returns:
        The images whose captions changed.

    Raises:
        BadData: The table is missing or wrong; nothing is changed.
    """
    store, path = CaptionStore(folder), folder / tables.NAME
    if not path.is_file():
        raise BadData(f"There is no {path}. Make one: limner caption {folder} --review")
    changes = tables.changes(read_text(path, TABLE_AT_MOST), _texts(store))
    images = {change.file: inspect(store.path(change.file), verify=False).sha256 for change in changes}
    for change in changes:
        store.edit(
            change.file, images[change.file], change.captions, {"pass": "review", "by": "hand", "at": now()}
        )
    if changes:
        store.record.tidy(store.texts(), complete=not store.record.job)
    write_text(
        path, tables.table([tables.TableRow(f, store.text(f) or "", _note(store, f)) for f in _own(store)])
    )
    return [change.file for change in changes]


def edit(path: Path, editor: str | None = None) -> bool:
    """Open the table in the person's editor ($VISUAL or $EDITOR) and wait until it is closed.

    Returns:
        False where there is none to open.

    Raises:
        BadUsage: The editor cannot be started, or says that it failed.
    """
    command = editor or os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        return False
    try:
        status = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
    except (OSError, ValueError) as error:
        raise BadUsage(
            f"The editor {command!r} cannot be started ({error}). Set VISUAL to another."
        ) from error
    if status:
        raise BadUsage(
            f"The editor {command!r} ended with status {status}; nothing is taken over from {path}."
        )
    return True


def _own(store: CaptionStore) -> list[str]:
    return [file for file in store.files if store.state(file) not in ("listed", "shared")]


def _texts(store: CaptionStore) -> dict[str, str]:
    return {file: store.text(file) or "" for file in _own(store)}


def _note(store: CaptionStore, file: str) -> str:
    row, state = store.record.rows.get(file), store.state(file)
    if row is not None and row.facts.get("flag"):
        return f"flagged: {row.facts['flag']}"
    if state == "by hand":
        return "yours"
    return str(row.facts.get("note", "")) if row is not None else ""


def _refuse_unapplied(path: Path, texts: dict[str, str]) -> None:
    """Edits in a table that is there must not be lost by making it anew."""
    if not path.is_file():
        return
    try:
        pending = tables.changes(read_text(path, TABLE_AT_MOST), texts)
    except BadData as error:
        raise BadUsage(
            f"{path} is there and cannot be taken over: {error} Correct it, or delete it for a new one."
        ) from error
    if pending:
        raise BadUsage(
            f"{path} holds {len(pending)} edits that are not taken over. Take them over with --apply, "
            "or delete it for a new one."
        )
