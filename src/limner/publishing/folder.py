"""The folder that is published: files without private metadata, pictures without foreign chunks, the card."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from limner.errors import BadData, BadUsage
from limner.files import atomic_folder, atomic_write, real_path, write_text
from limner.lora.embeddings import MARK
from limner.lora.metadata import header, public_entries
from limner.lora.peft_config import HEADER_KEY
from limner.lora.saving import copy_with_metadata
from limner.publishing.card import card, image_name
from limner.publishing.card_images import CardImage
from limner.publishing.publication import Publication

CARD = "README.md"


def write_folder(item: Publication, folder: Path, repo: str) -> list[Path]:
    """Write all that the hub will show.

    Args:
        item: What is published.
        folder: New, or empty.
        repo: Where it goes on the hub: owner/name.

    Returns:
        The files.

    Raises:
        BadUsage: The folder holds files.
        BadLora: A file of the LoRA is not safe.
        BadData: A picture cannot be read.
        DiskFull: There is no room.
    """
    with new_or_empty(folder) as draft:
        paths = write_loras(item, draft)
        paths += [
            write_card_image(image, draft / image_name(number)) for number, image in enumerate(item.images)
        ]
        write_text(draft / CARD, card(item, repo))
    return [folder / path.relative_to(draft) for path in (draft / CARD, *paths)]


@contextmanager
def new_or_empty(folder: Path) -> Iterator[Path]:
    """A folder of which nothing else shall be published; it appears filled.

    Yields:
        What to fill: there, and empty.

    Raises:
        BadUsage: It holds files, or is where this process works.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise BadUsage(f"{folder} is there and not empty. Name another folder.")
    if real_path(folder) == Path.cwd():
        raise BadUsage(f"{folder} is the folder that you are in. Name another folder.")
    with atomic_folder(folder) as draft:
        draft.mkdir()
        yield draft


def write_loras(item: Publication, folder: Path) -> list[Path]:
    """Copy the files of the LoRA and of the word, without what is private in their metadata."""
    paths = []
    for file in item.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = header(file.source).metadata
        public = public_entries(metadata)
        public |= {key: metadata[key] for key in (HEADER_KEY,) if key in metadata}  # holds the strength
        copy_with_metadata(file.source, path, public)
        paths.append(path)
    for name, source in (item.word.sources if item.word else {}).items():
        metadata = header(source).metadata
        public = public_entries(metadata) | {key: metadata[key] for key in (MARK,) if key in metadata}
        copy_with_metadata(source, folder / name, public)
        paths.append(folder / name)
    return paths


def write_card_image(image: CardImage, path: Path, *, with_parameters: bool = False) -> Path:
    """Write the pixels of a picture as PNG, and with ``with_parameters`` how it was made; nothing else of it.

    Raises:
        BadData: It cannot be read.
    """
    info = PngInfo()
    if with_parameters and image.parameters:
        info.add_text("parameters", image.parameters)
    try:
        with Image.open(image.path) as file:
            pixels = file.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BadData(f"The picture {image.path} cannot be read. Remove it, and publish again.") from error
    atomic_write(path, lambda draft: pixels.save(draft, format="PNG", pnginfo=info))
    return path
