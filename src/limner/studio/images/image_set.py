"""A folder of images as its page shows it: captions and what belongs to each image, read from the files."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from limner.captions.store import CaptionStore
from limner.data.captions import MetadataRow, final, read_metadata, read_text, split, variants
from limner.data.images import region
from limner.errors import BadData, LimnerError
from limner.files import write_json
from limner.models.registry import named_base
from limner.recipe import toml
from limner.studio.workspace import Workspace

RESOLUTION = 1024
"""Pixels, of a base that is not known."""


@dataclass(frozen=True)
class SetSettings:
    """What a folder of images is for, as far as its page must know."""

    trigger: str = ""
    concept_type: str = "subject"
    base: str = "glyph"
    resolution: int | None = None
    """Side in pixels of the square whose area images get; None: the base's own."""

    @property
    def side(self) -> int:
        """The resolution that counts."""
        base = named_base(self.base)
        return self.resolution or (base.resolution if base else RESOLUTION)


@dataclass(frozen=True)
class ImageSet:
    """A folder of images in the workspace.

    Raises:
        BadData: It cannot be read, or holds no image.
    """

    workspace: Workspace
    folder: Path

    @cached_property
    def store(self) -> CaptionStore:
        """Its images, and whose caption each has."""
        return CaptionStore(self.folder)

    @property
    def files(self) -> tuple[str, ...]:
        """Its images, relative to the folder, by name."""
        return self.store.files

    @property
    def name(self) -> str:
        """How it is called in addresses."""
        return self.workspace.named(self.folder)

    @cached_property
    def sign(self) -> str:
        """What files about it are named after: they lie in ``.limner``."""
        return hashlib.sha256(self.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def own_file(self, kind: str, ending: str = ".json") -> Path:
        """Where the studio keeps something about it."""
        return self.workspace.root / ".limner" / kind / f"{self.sign}{ending}"

    # captions ---------------------------------------------------------------------------------------------

    def text(self, file: str) -> str:
        """The text of an image's caption file; empty where there is none.

        Raises:
            BadData: It is no text.
        """
        path = self.store.sidecar(file)
        return read_text(path).replace("\r\n", "\n").strip() if path.exists() else ""

    def caption(self, file: str) -> str:
        """The same, or the caption of the metadata file that lists the image; what is no text is none."""
        if self.store.state(file) == "listed":
            return self.row(file) or ""
        try:
            return self.text(file)
        except BadData:
            return ""

    def fixed_by(self, file: str) -> str:
        """Why an image's caption cannot be edited beside it; empty where it can."""
        state = self.store.state(file)
        if state == "listed":
            return ""
        if state == "shared":
            return f"It shares its text file with {self.store.shared_with(file)}. Rename one of the two."
        try:
            self.text(file)
        except BadData as error:
            return str(error)
        return ""

    def training_text(self, file: str, trigger: str) -> str:
        """What training reads, where that is not what stands in the file; of variants the first that differs.

        Raises:
            BadData: There is a placeholder and no trigger, or the captions cannot be used.
        """
        captions = variants(split(self.caption(file)))
        is_kohya = "/" in file and PurePosixPath(file).parts[0].partition("_")[0].isdecimal()
        if not captions and (is_kohya or not trigger):  # the name of the folder counts there
            return ""
        texts = final(captions, trigger=trigger, default="")
        return next((text for text in texts if text not in captions), "")

    # what belongs to an image -----------------------------------------------------------------------------

    @cached_property
    def companions(self) -> dict[str, list[str]]:
        """Image -> masks, control images and crops that belong to it, of those that have any."""
        companions = self.store.listing.companions()
        for file, row in self._rows.items():
            for name in row.companions:
                companions.setdefault(file, []).append(str(PurePosixPath(file).parent / name))
        return {file: list(dict.fromkeys(names)) for file, names in companions.items()}

    def crop_file(self, file: str) -> str:
        """The file that says which part of an image counts; empty where there is none."""
        return self.store.listing.sidecar_of(file, self.store.listing.crops) or ""

    def extent(self, file: str, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of an image that counts, (left, top, right, bottom) in upright pixels.

        Raises:
            BadData: Its ``.crop`` says something else than a part of it.
        """
        row, crop_file = self._rows.get(file), self.crop_file(file)
        text = row.crop if row and row.crop else read_text(self.folder / crop_file, 1000) if crop_file else ""
        return region(text, width, height) or (0, 0, width, height)

    def metadata_of(self, file: str) -> tuple[Path, str] | None:
        """The metadata file that has an image's captions, and its name there; None: its text file counts."""
        return self.home_of(file) if self.store.state(file) == "listed" else None

    def home_of(self, file: str) -> tuple[Path, str] | None:
        """The metadata file that has a line for an image, and its name there."""
        return self._homes.get(file)

    def row(self, file: str) -> str | None:
        """The captions in a metadata file of an image, a line each; None where none has a line for it."""
        return "\n".join(self._rows[file].captions) if file in self._rows else None

    @cached_property
    def _homes(self) -> dict[str, tuple[Path, str]]:
        homes: dict[str, tuple[Path, str]] = {}
        for name in self.store.listing.metadata:
            path = self.folder / name
            for row in read_metadata(path):
                if isinstance(row, MetadataRow):
                    homes[str(PurePosixPath(name).parent / row.file)] = path, row.file
        return homes

    @cached_property
    def _rows(self) -> dict[str, MetadataRow]:
        rows: dict[str, MetadataRow] = {}
        for name in self.store.listing.metadata:
            folder = PurePosixPath(name).parent
            for row in read_metadata(self.folder / name):
                if isinstance(row, MetadataRow):
                    rows[str(folder / row.file)] = row
        return rows

    def belongings(self, file: str) -> list[str]:
        """The files that go with an image: caption, crop, masks and control images named after it."""
        sidecar = self.store.sidecar(file)
        is_own = self.store.state(file) != "shared" and not any(
            self.store.state(other) == "shared" and self.store.shared_with(other) == file
            for other in self.files
            if PurePosixPath(other).with_suffix("") == PurePosixPath(file).with_suffix("")
        )
        names = [sidecar.relative_to(self.folder).as_posix()] if is_own and sidecar.exists() else []
        names += [self.crop_file(file)] if self.crop_file(file) else []
        return names + self.store.listing.companions().get(file, [])

    def mark(self, settings: SetSettings) -> str:
        """Hash of names, sizes and times of all files that count, and of the settings."""
        listing = self.store.listing
        names: Iterable[str] = (*self.files, *listing.texts.values(), *listing.crops.values())
        names = sorted({*names, *listing.metadata, *listing.masks})
        digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
        for name in names:
            try:
                facts = (self.folder / name).stat()
            except OSError:
                continue
            digest.update(f"{name}|{facts.st_size}|{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    # what it is for ---------------------------------------------------------------------------------------

    def settings(self) -> SetSettings:
        """What was said last; else what a recipe for this folder says."""
        return self.kept_settings() or self._recipe_settings()

    def kept_settings(self) -> SetSettings | None:
        """What was said last; None where nothing was."""
        try:
            values = json.loads(self.own_file("images").read_bytes())
            return SetSettings(**{key: values[key] for key in asdict(SetSettings()) if key in values})
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, settings: SetSettings) -> None:
        """Keep what it is for."""
        write_json(self.own_file("images"), asdict(settings))

    def _recipe_settings(self) -> SetSettings:
        for path in self.workspace.recipe_files():
            try:
                recipe = toml.load(path)
            except LimnerError:
                continue  # told on the page Plan
            if (self.workspace.root / recipe.data.images).resolve() == self.folder:
                data: Any = recipe.data
                side = max(data.resolution) if isinstance(data.resolution, tuple) else data.resolution
                return SetSettings(data.trigger, recipe.concept_type, recipe.base, side)
        return SetSettings()
