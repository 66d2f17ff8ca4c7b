"""Control images: what an edit model is shown beside a caption, found by the name of their target.

A pair is a target, which is trained, and one or more control images. They lie in folders of their own under
the target's name, or a metadata file names them. How large a control becomes is the family's affair, as the
stock pipelines have rules of their own: :class:`ControlFit`.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from limner.data.captions import MetadataRow, read_metadata
from limner.data.images import BadImage, inspect, read_image
from limner.data.listing import Listing, listed
from limner.errors import BadData

_COUNTER = re.compile(r"(.+)_(\d{1,3})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ControlImage:
    """A control image of an example."""

    path: Path
    """Where it is now; nothing that is stored depends on it."""
    sha256: str
    """Of the file's bytes, in hex."""
    width: int
    """Pixels, after EXIF rotation."""
    height: int


@dataclass(frozen=True)
class ControlFit:
    """How large a control image becomes: canvas as a whole, then cropped around its middle."""

    size: Callable[[int, int], tuple[int, int]]
    """(width, height) of an image -> those that it is canvas to, pixels."""
    multiple: int
    """The sides are cropped to multiples of this, in pixels."""
    least_side: int = 1
    """Pixels of the short side below which the stock pipeline refuses it."""
    most_ratio: float = math.inf
    """Long side by short side above which the stock pipeline refuses it."""

    def require(self, path: Path, width: int, height: int) -> None:
        """Raise ``BadImage`` unless a file of such a size, and what becomes of it, can be read."""
        for short, long in map(sorted, ((width, height), self.fitted(width, height))):
            if short < self.least_side or long > short * self.most_ratio:
                raise BadImage(
                    path,
                    f"has {width} x {height} pixels; this base reads control images with sides of at least "
                    f"{self.least_side}, and no longer than {self.most_ratio:g}:1. Crop or enlarge it.",
                )

    def fitted(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of what becomes of an image of such a size."""
        width, height = self.size(width, height)
        return width // self.multiple * self.multiple, height // self.multiple * self.multiple

    def image(self, image: Image.Image) -> Image.Image:
        """The picture as the family sees it: LANCZOS, as the image processor of diffusers resizes."""
        size = self.size(image.width, image.height)
        width, height = self.fitted(image.width, image.height)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
        return image.crop((left, top, left + width, top + height))


@dataclass
class ControlFolders:
    """The images of some folders, by the names of the targets that they belong to.

    Raises:
        BadData: A folder does not exist or cannot be read.
    """

    folders: tuple[Path, ...]
    key: str = "data.control"
    """The key of the recipe that names them."""
    used: set[Path] = field(default_factory=set)
    """Control images that a target was found for."""

    def __post_init__(self) -> None:
        self._by_stem = [_by_stem(folder, self.key) for folder in self.folders]

    def of(self, target: str) -> list[list[Path]]:
        """The control images of a target, in order: of each the files that bear its name, which is one.

        In several folders, one in each. In a single folder ``cat.png``, or ``cat_1.png``, ``cat_2.png`` ..

        Args:
            target: The target's path relative to its folder, with "/".
        """
        stem = composed(str(PurePosixPath(target).with_suffix("")))
        matches = [self.alike(stem, number) for number in range(len(self.folders))]
        if len(self.folders) == 1 and not matches[0]:
            matches = self._numbered(stem)
        self.used |= {path for paths in matches for path in paths}
        return matches

    def alike(self, stem: str, number: int = 0, *, anywhere: bool = True) -> list[Path]:
        """Files of one folder with a path, less its ending; or else, ``anywhere``, with its name alone."""
        by_stem = self._by_stem[number]
        return by_stem.get(stem) or (by_stem.get(stem.rpartition("/")[2]) if anywhere else None) or []

    def _numbered(self, stem: str) -> list[list[Path]]:
        for name in dict.fromkeys((stem, stem.rpartition("/")[2])):
            numbers = {
                int(match[2]): paths
                for other, paths in self._by_stem[0].items()
                if (match := _COUNTER.fullmatch(other)) and match[1] == name
            }
            if numbers:
                return [numbers[number] for number in sorted(numbers)]
        return []

    @property
    def surplus(self) -> list[Path]:
        """Images of the folders that belong to no target that was asked for."""
        files = {path for by_stem in self._by_stem for paths in by_stem.values() for path in paths}
        return sorted(files - self.used)


def _by_stem(folder: Path, key: str) -> dict[str, list[Path]]:
    if not folder.exists():
        raise BadData(f"{key} is {folder}, and there is no such folder. Where is it now? --set {key}=FOLDER")
    listing = listed(folder)
    stems: dict[str, list[Path]] = {}
    for file in sorted((*listing.images, *listing.masks)):
        stems.setdefault(composed(str(PurePosixPath(file).with_suffix(""))), []).append(folder / file)
    return stems


def composed(name: str) -> str:
    """A name as most systems write it: macOS takes letters with accents apart."""
    return unicodedata.normalize("NFC", name)


def without_controls(root: Path, listing: Listing, folders: Iterable[Path]) -> None:
    """Take out of a listing what lies in folders of controls or masks below ``root``: it is no target."""
    inner = [folder.relative_to(root).as_posix() for folder in folders if folder.is_relative_to(root)]
    prefixes = tuple(f"{folder}/" for folder in inner if folder != ".")
    for name in ("images", "masks", "unread_texts"):
        setattr(listing, name, [file for file in getattr(listing, name) if not file.startswith(prefixes)])
    listing.texts = {stem: file for stem, file in listing.texts.items() if not file.startswith(prefixes)}


def counted_controls(images: Path, folders: Sequence[Path]) -> int:
    """How many control images the targets of a folder have, by names alone: the most that any has.

    Args:
        images: The folder of targets.
        folders: ``data.control``; none: what the metadata file of ``images`` names.

    Raises:
        BadData: A folder is missing, or no control image bears the name of a target.
    """
    if not images.is_dir():
        return len(folders)
    listing = listed(images)
    without_controls(images, listing, folders)
    if not folders:
        return max((len(row.controls) for row in _rows(images, listing)), default=0)
    control_folders = ControlFolders(tuple(folders))
    counts = [sum(map(bool, control_folders.of(file))) for file in listing.images]
    if listing.images and not any(counts):
        name = PurePosixPath(listing.images[0]).name
        raise BadData(
            f"data.control is {' and '.join(map(str, folders))}, and no image there has the name of one of "
            f"the {len(listing.images)} images in {images}, such as {name}. Name each control image after "
            "its target."
        )
    return len(folders) if len(folders) > 1 else max(counts, default=1)


def _rows(images: Path, listing: Listing) -> list[MetadataRow]:
    rows = (row for file in listing.metadata for row in read_metadata(images / file))
    return [row for row in rows if isinstance(row, MetadataRow)]


def read_controls(
    matches: Sequence[Sequence[Path]], count: int, fit: ControlFit | None = None
) -> tuple[ControlImage, ...]:
    """The control images of one target, looked into.

    Args:
        matches: For each control image the files that may be it.
        count: How many there must be.
        fit: How large they become, where the base is known.

    Raises:
        BadData: One is missing, two have one name, or a file cannot be used.
    """
    candidates = [paths for paths in matches if paths]
    if len(candidates) != count:
        state = "no control image" if not candidates else f"{len(candidates)} of {count} control images"
        noun = "it" if count == 1 else "them"
        raise BadData(f"has {state}. Add {noun} under the name of this image, or remove this image.")
    for paths in candidates:
        if len(paths) > 1:
            raise BadData(
                f"has two control images of one name, {paths[0].name} and {paths[1].name}. Remove one."
            )
    controls = tuple(ControlImage(paths[0], *inspect(paths[0])) for paths in candidates)
    for control in controls:
        if fit:
            fit.require(control.path, control.width, control.height)
    return controls


def view_of_control(control: ControlImage, fit: ControlFit, *, flip: bool) -> Image.Image:
    """A control image as the family sees it, mirrored with its target.

    Raises:
        BadImage: The file cannot be read.
    """
    image = fit.image(read_image(control.path))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
