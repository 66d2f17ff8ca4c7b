"""captions.jsonl: where each caption is from. And which captions a person has written or edited since.

A line is added as soon as an image is answered, before its text file is written, so that a process killed in
between loses no answer that was paid for. The last line about an image counts. A caption is ours as long as
its text file has the hash that is noted; any other text is a person's, and is never touched.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from limner.files import append_line, write_text

NAME = "captions.jsonl"
State = Literal["missing", "ours", "by hand", "answered"]


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def text_of(captions: tuple[str, ...]) -> str:
    """A sidecar's text: a variant a line."""
    return "".join(f"{caption}\n" for caption in captions)


def hash_of(text: str) -> str:
    """SHA-256 of a text without blank lines and white space at the ends of lines: editors may tidy."""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()


@dataclass(frozen=True)
class CaptionRecord:
    """What is known of the captions of one image."""

    file: str
    """Relative to the folder, with "/"."""
    image: str
    """SHA-256 of the image that was looked at."""
    captions: tuple[str, ...]
    """Empty when it was flagged."""
    facts: Mapping[str, Any]
    """Provider, model, prompt, concept, time, tokens, price, pass; the flag; what stood there before."""
    on_disk: bool = False
    """The text file has been seen in place."""

    @property
    def hash(self) -> str:
        """Of the text that belongs to it."""
        return hash_of(text_of(self.captions))

    @property
    def before(self) -> str:
        """Hash of the text that it took the place of; of an empty one when there was none."""
        return hash_of(text_of(tuple(self.facts.get("before", ()))))

    @property
    def is_consistent(self) -> bool:
        """Whether the set pass has been over it."""
        return self.facts.get("pass") == "set"


class Provenance:
    """The file in one folder."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. A torn or foreign line is passed over."""
        self.path = folder / NAME
        self.rows: dict[str, CaptionRecord] = {}
        self.words: dict[str, list[str]] = {}
        self.job: dict[str, str] = {}
        """An overwriting that has begun: its "id", and the "settings" that it is for."""
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._take(line)

    def add(self, row: CaptionRecord) -> None:
        """Keep a row, on the disk first."""
        append_line(self.path, _line(row))
        self.rows[row.file] = row

    def begin(self, settings: str) -> str:
        """The id of an overwriting with these settings: that of one that was broken off, or a new one."""
        if self.job.get("settings") != settings:
            self.job = {"id": secrets.token_hex(4), "settings": settings}
            append_line(self.path, json.dumps({"job": self.job}))
        return self.job["id"]

    def agree(self, words: Mapping[str, list[str]]) -> None:
        """Keep the words that the set pass settled."""
        for use, replaced_words in words.items():
            self.words[use] = sorted({*self.words.get(use, []), *replaced_words})

    def tidy(self, texts: Mapping[str, str], *, complete: bool) -> None:
        """Write the file anew: one line per image, and which texts are in place.

        Args:
            texts: File -> what its text file holds now.
            complete: No overwriting is left to be gone on with.
        """
        if not self.rows:
            return
        for file, row in self.rows.items():
            is_same = file in texts and hash_of(texts[file]) == row.hash
            self.rows[file] = CaptionRecord(
                row.file, row.image, row.captions, row.facts, is_same or row.on_disk
            )
        lines = [_line(row) for _, row in sorted(self.rows.items())]
        if complete:
            self.job = {}
        if self.job:
            lines.append(json.dumps({"job": self.job}))
        if self.words:
            lines.append(json.dumps({"words": self.words}, ensure_ascii=False))
        text = "".join(f"{line}\n" for line in lines)
        if not self.path.is_file() or self.path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(self.path, text)

    def state(self, file: str, text: str | None) -> State:
        """Whose caption an image's text file holds: nobody's, ours, a person's; or ours, not yet written."""
        row = self.rows.get(file)
        if text is None or not text.strip():
            pending = (
                row is not None and row.captions and not row.on_disk
            )  # a deleted text is a wish for another
            return "answered" if pending else "missing"
        if row is None or not row.captions or row.facts.get("by") == "hand":
            return "by hand"
        digest = hash_of(text)
        if digest == row.hash:
            return "ours"
        return "answered" if digest == row.before and not row.on_disk else "by hand"

    def _take(self, line: str) -> None:
        try:
            value = json.loads(line)
            if "words" in value:
                self.agree({str(use): [str(text) for text in texts] for use, texts in value["words"].items()})
                return
            if "job" in value and "file" not in value:
                self.job = {str(key): str(item) for key, item in value["job"].items()}
                return
            captions = tuple(str(text) for text in value.pop("captions"))
            row = CaptionRecord(
                str(value.pop("file")),
                str(value.pop("image")),
                captions,
                value,
                bool(value.pop("written", 0)),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return
        self.rows[row.file] = row


def _line(row: CaptionRecord) -> str:
    fields = {"file": row.file, "image": row.image, "captions": list(row.captions), **row.facts}
    return json.dumps({**fields, "written": row.on_disk}, ensure_ascii=False)
