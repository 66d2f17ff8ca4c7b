"""A folder of images as captions see it: whose caption each image has, and putting one there without harm."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from limner.captions.provenance import CaptionRecord, Provenance, text_of
from limner.data.captions import SIDECARS, BrokenRow, read_metadata, read_text
from limner.data.listing import listed
from limner.errors import BadData
from limner.files import remove_dead_drafts, write_text

State = Literal["missing", "ours", "by hand", "answered", "listed", "shared"]


class CaptionStore:
    """The images below a folder, their text files, and the record of where captions are from.

    Raises:
        BadData: The folder cannot be read, has no image, or has a metadata file that is broken.
    """

    def __init__(self, root: Path) -> None:
        """Read names and the record, and clear away what a killed process half wrote; no image is opened."""
        listing = listed(root)
        if not listing.images:
            raise BadData(
                f"{root} holds no images. Put JPEG, PNG or WebP files into it, or name another folder."
            )
        for folder in {(root / file).parent for file in listing.images}:
            remove_dead_drafts(folder)
        self.root, self.listing = root, listing
        self.files: tuple[str, ...] = tuple(listing.images)
        self.rejected = listing.rejected
        self.record = Provenance(root)
        self._metadata_images = _in_metadata(root, listing.metadata)
        self._sidecars: dict[str, str] = {}
        self._sharing: dict[str, str] = {}
        owner: dict[str, str] = {}
        for file in self.files:
            stem = str(PurePosixPath(file).with_suffix(""))
            self._sidecars[file] = listing.sidecar_of(file, listing.texts) or f"{stem}{SIDECARS[0]}"
            if owner.setdefault(stem, file) != file:
                self._sharing[file] = owner[stem]

    def path(self, file: str) -> Path:
        """Of an image."""
        return self.root / file

    def sidecar(self, file: str) -> Path:
        """The text file of an image, there or not."""
        return self.root / self._sidecars[file]

    def text(self, file: str) -> str | None:
        """What an image's text file holds now, None where there is none. What is no text is a person's."""
        path = self.sidecar(file)
        if not path.exists():
            return None
        try:
            return read_text(path)
        except BadData:
            return "(not text)"

    def texts(self) -> dict[str, str]:
        """All that there are now."""
        texts = {file: self.text(file) for file in self.files}
        return {file: text for file, text in texts.items() if text is not None}

    def state(self, file: str) -> State:
        """Whose caption an image has.

        Nobody's ("missing"), ours, ours but not yet in place ("answered"), a person's ("by hand"), one of a
        metadata file ("listed"); or it shares its text file with another image of the same name ("shared").
        """
        if file in self._metadata_images:
            return "listed"
        if file in self._sharing:
            return "shared"
        return self.record.state(file, self.text(file))

    def shared_with(self, file: str) -> str:
        """The image whose text file it would share."""
        return self._sharing[file]

    def captions(self, file: str) -> tuple[str, ...]:
        """The variants in an image's text file."""
        text = self.text(file) or ""
        lines = (" ".join(line.split()) for line in text.replace("\r", "\n").split("\n"))
        return tuple(line for line in lines if line)

    def put(self, file: str, image: str, captions: tuple[str, ...], facts: Mapping[str, Any]) -> bool:
        """Record captions, then write them; not where a person has written in the meantime.

        Args:
            file: The image.
            image: SHA-256 of the image that was looked at.
            captions: At least one.
            facts: Where they are from.

        Returns:
            Whether they are in place.
        """
        if self.state(file) in ("by hand", "listed", "shared"):
            return False
        before = {"before": list(self.captions(file))} if self.text(file) else {}
        self.record.add(CaptionRecord(file, image, captions, {**facts, **before}))
        self._write(file, captions)
        return True

    def restore(self, file: str) -> None:
        """Write what was answered, where a killed process had not come to it."""
        self._write(file, self.record.rows[file].captions)

    def flag(self, file: str, image: str, reason: str, facts: Mapping[str, Any]) -> None:
        """Record why an image got no captions. Those that it has of us stay ours."""
        old = self.record.rows.get(file)
        if old is not None and old.captions:
            self.record.add(
                CaptionRecord(file, old.image, old.captions, {**old.facts, "flag": reason}, old.on_disk)
            )
        else:
            self.record.add(CaptionRecord(file, image, (), {**facts, "flag": reason}))

    def edit(self, file: str, image: str, captions: tuple[str, ...], facts: Mapping[str, Any]) -> None:
        """Write what a person says, whatever is there; it is theirs from then on."""
        before = {"before": list(self.captions(file))} if self.text(file) else {}
        self.record.add(CaptionRecord(file, image, captions, {**facts, **before}))
        self._write(file, captions)

    def _write(self, file: str, captions: tuple[str, ...]) -> None:
        write_text(self.sidecar(file), text_of(captions))


def _in_metadata(root: Path, files: list[str]) -> frozenset[str]:
    """The images that have captions in a metadata file, which wins over text files."""
    names: set[str] = set()
    for file in files:
        folder = PurePosixPath(file).parent
        rows = [row for row in read_metadata(root / file) if not isinstance(row, BrokenRow)]
        names |= {str(folder / row.file) for row in rows if row.captions}
    return frozenset(names)
