"""Masks: what of an image the loss sees. White counts in full, black does not, gray in part.

A mask is a picture of its own, found by the name of its image, or the alpha channel of the image itself.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageOps

from limner.data.control import ControlFolders, composed, without_controls
from limner.data.images import BadImage, inspect, read_alpha, read_image
from limner.data.listing import Listing
from limner.errors import BadData
from limner.files import real_path, sha256_file

if TYPE_CHECKING:
    from limner.data.folder import Rejected

ALPHA, SIDECAR = "alpha", "sidecar"
ENDINGS = tuple(f"{mark}{word}" for word in ("mask", "masklabel") for mark in "-_.")
"""What follows an image's name in that of its mask."""
TINT, OPACITY = (214, 40, 90), 0.65
"""What lies over that which is not learned, where people look at a mask."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask of an example."""

    path: Path
    """Where it is now; nothing that is stored depends on it."""
    sha256: str
    """Of the file's bytes, in hex."""
    width: int
    """Pixels, upright; the shape of the image, at any scale."""
    height: int
    bounds: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels of the mask: outside of it all is black."""
    alpha: bool = False
    """Whether it is the alpha channel of the file, not its lightness."""

    def image(self) -> Image.Image:
        """The mask, upright, mode L.

        Raises:
            BadImage: The file cannot be read, or is not the one that the folder held.
        """
        image = read_alpha(self.path) if self.alpha else read_mask_image(self.path)
        if image is None or image.size != (self.width, self.height):
            raise BadImage(self.path, "has changed since the folder was read. Run again.")
        return image


def read_mask_image(path: Path) -> Image.Image:
    """The lightness of a picture, upright, mode L; what is transparent in it is black.

    Raises:
        BadImage: The file cannot be used.
    """
    lightness, alpha = read_image(path).convert("L"), read_alpha(path)
    # read_image puts it on white paper, which is taken away again
    return lightness if alpha is None else ImageChops.subtract(lightness, ImageOps.invert(alpha))


def tinted(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An RGB image, tinted where its mask (mode L, of the same crop, at any scale) is black."""
    small = mask.resize(image.size, Image.Resampling.BOX)
    veil = small.point([int((255 - value) * OPACITY) for value in range(256)])
    return Image.composite(Image.new("RGB", image.size, TINT), image, veil)


@dataclass
class Masks:
    """The masks of a folder of images.

    Raises:
        BadData: Their folder does not exist or cannot be read.
    """

    root: Path
    """The folder of images."""
    source: Path | str | None
    """``data.masks``."""
    listing: InitVar[Listing]
    """Of the folder. What lies among the images and is a mask by name or place is taken out of it."""

    def __post_init__(self, listing: Listing) -> None:
        folder = self.source if isinstance(self.source, Path) else None
        if folder and real_path(folder) == real_path(self.root):
            folder = None
        self._is_sidecar = folder is None and self.source not in (None, ALPHA)
        folders = (folder,) if folder else (self.root,) if self._is_sidecar else ()
        self._folders = ControlFolders(folders, "data.masks")
        if folder:
            without_controls(self.root, listing, folders)
        elif self._is_sidecar:
            strays = [file for file in listing.images if named_as_mask(file)]
            strays = [file for file in strays if listing.sidecar_of(file, listing.texts) is None]
            listing.masks += strays
            listing.images = [file for file in listing.images if file not in strays]

    def of(self, target: str) -> list[Path]:
        """The files that may be the mask of an image: one at most where all is well.

        Args:
            target: The image's path relative to its folder, with "/".
        """
        if self.source == ALPHA:
            return [self.root / target]
        if not self._folders.folders:
            return []
        stem = composed(str(PurePosixPath(target).with_suffix("")))
        names = [f"{stem}{ending}" for ending in ENDINGS]
        names = names if self._is_sidecar else [stem, *names]
        matches = [
            path for name in names for path in self._folders.alike(name, anywhere=not self._is_sidecar)
        ]
        paths = [path for path in dict.fromkeys(matches) if path != self.root / target]
        self._folders.used.update(paths)
        return paths

    def read(self, target: str, size: tuple[int, int]) -> Mask | None:
        """The mask of an image; None where it has none.

        Args:
            target: As for :meth:`of`.
            size: (width, height) of the image, upright.

        Raises:
            BadData: It is damaged, of another shape, or all black; or there are two.
        """
        paths = self.of(target)
        if not paths:
            return None
        if len(paths) > 1:
            raise BadData(f"has two masks, {paths[0].name} and {paths[1].name}. Remove one.")
        return _alpha_mask(paths[0]) if self.source == ALPHA else _file_mask(paths[0], size)

    @property
    def files(self) -> set[Path]:
        """All masks, whether an image was found for them or not."""
        return {*self._folders.used, *self.surplus}

    @property
    def surplus(self) -> list[Path]:
        """Masks that belong to no image that was asked for."""
        surplus = self._folders.surplus
        return [path for path in surplus if named_as_mask(path.name)] if self._is_sidecar else surplus


def named_as_mask(file: str) -> bool:
    """Whether a file is called ``cat-mask.png`` or the like."""
    return str(PurePosixPath(file).with_suffix("")).lower().endswith(ENDINGS)


def _alpha_mask(path: Path) -> Mask | None:
    image = read_alpha(path)
    if image is None:
        return None
    if (bounds := image.getbbox()) is None:
        raise BadData(
            "is all transparent, and its alpha channel is its mask: nothing of it would be learned. Make "
            "what counts opaque, or remove it."
        )
    return Mask(path, sha256_file(path), *image.size, bounds, alpha=True)


def _file_mask(path: Path, size: tuple[int, int]) -> Mask:
    try:
        sha256, width, height = inspect(path)
        image = read_mask_image(path)
    except BadImage as error:
        raise BadData(f"has a mask, {path.name}, that {error.reason}") from error
    if abs(width * size[1] - height * size[0]) > max(size):  # more than a pixel of the mask
        raise BadData(
            f"has {size[0]} x {size[1]} pixels, and its mask {path.name} {width} x {height}: another shape. "
            "Save the mask in the shape of the image."
        )
    if (bounds := image.getbbox()) is None:
        raise BadData(
            f"has a mask that is all black, {path.name}: nothing of it would be learned. Paint white what "
            "counts, or remove the mask."
        )
    return Mask(path, sha256, width, height, bounds)


def require_masks(
    root: Path,
    source: Path | str | None,
    masks: Sequence[Mask | None],
    rejected: Sequence["Rejected"] = (),
) -> None:
    """Raise ``BadData`` where masks are asked for, and no image of a folder has one that can be used.

    Args:
        root: The folder of images.
        source: ``data.masks``.
        masks: Of each image that can be used.
        rejected: Images that cannot be used, some of them perhaps for their masks.
    """
    if source is None or any(masks):
        return
    if reasons := [f"{item.path.name} {item.reason}" for item in rejected if " mask" in item.reason]:
        count = f" ({len(reasons)} images are left out for theirs)" if len(reasons) > 1 else ""
        raise BadData(f'data.masks is "{source}", and no mask can be used{count}. {reasons[0]}')
    start = f'data.masks is "{source}", and none of the {len(masks)} images in {root}'
    if source == ALPHA:
        raise BadData(f"{start} has an alpha channel. Name a folder of masks, or remove data.masks.")
    raise BadData(
        f"{start} has a mask of its name. Name each after its image, as cat-mask.png after cat.jpg, or "
        "remove data.masks."
    )
