"""The safe repairs of a folder of images, into a new one: the folder itself is never written to."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from limner.checking.check import Checked
from limner.checking.findings import PLAIN_MODES
from limner.checking.image_stats import Look
from limner.data.images import read_image
from limner.data.region import REGION
from limner.errors import BadUsage
from limner.files import atomic_write, human, require_space, write_json, write_text
from limner.reporter import Reporter

COPIES = ("duplicate", "near-duplicate")
"""Findings whose image is left behind; of a burst the sharpest has none."""
SPARE = 1.5
"""Times the size of the originals that is asked for: a converted image may grow."""


@dataclass(frozen=True)
class Mended:
    """What was written."""

    folder: Path
    copied: tuple[str, ...]
    """Unchanged to the byte."""
    converted: tuple[str, ...]
    """Turned upright, first frame, on white, RGB of 8 bits."""
    lent: tuple[tuple[str, str], ...]
    """Image that had no caption, the copy left behind whose caption it got."""
    left_behind: tuple[tuple[str, str], ...]
    """Image, why."""

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        return (
            f"Fixed: {self.folder}: {len(self.copied)} copied, {len(self.converted)} converted, "
            f"{len(self.left_behind)} left behind"
        )


def mend(done: Checked, folder: Path, reporter: Reporter) -> Mended:
    """Write what is usable into ``folder``: upright and RGB, without copies, the sharpest of each burst.

    Images that are in order are copied byte for byte. JPEGs that must be written anew are saved at quality
    95 without colour subsampling, others as PNG. Captions and crops go beside the images as ``.txt`` and
    ``.crop``; an image without a caption gets that of a copy that is left behind. Sub-folders stay, so
    kohya's repeats do. ``fixed.json`` tells what was done.

    Raises:
        BadUsage: The folder exists, or lies in the folder of images.
        DiskFull: There is not enough room.
    """
    if folder.exists():
        raise BadUsage(f"{folder} exists. Name a new folder with --fix.")
    if folder.resolve().is_relative_to(done.folder.root.resolve()):
        raise BadUsage(f"{folder} lies in the folder of images. Name a folder outside of it with --fix.")
    gone = {each.image: each.reason for each in done.findings if each.kind in COPIES}
    lost = [(each.image, each.reason) for each in done.findings if each.kind == "left-out"]
    kept = [(each, name) for each, name in zip(done.looks, done.names, strict=True) if name not in gone]
    lent = _lent(done)
    bytes_ = sum(each.example.path.stat().st_size for each, _ in kept)
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, int(SPARE * bytes_), f"the mended images ({human(bytes_)} as they are)")
    copied: list[str] = []
    converted: list[str] = []
    taken: set[str] = set()
    with reporter.progress("write", len(kept)) as steps:
        for each, name in kept:
            target = _free(PurePosixPath(name), each, taken)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            (converted if _write(each, folder / target) else copied).append(str(target))
            _write_beside(each, folder / target, lent.get(name, ("", ()))[1])
            steps.advance()
    given = tuple((name, copy) for name, (copy, _) in lent.items())
    mended = Mended(folder, tuple(copied), tuple(converted), given, (*gone.items(), *lost))
    write_json(folder / "fixed.json", {**mended.plain(), "folder": folder.name})
    return mended


def _lent(done: Checked) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Image without a caption -> the first of its copies that has one, and what it says."""
    written = {name: each.example.written for each, name in zip(done.looks, done.names, strict=True)}
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for each in done.findings:
        if each.copy_of and not written[each.copy_of] and written[each.image]:
            found.setdefault(each.copy_of, (each.image, written[each.image]))
    return found


def in_order(each: Look) -> bool:
    """Whether training reads the file as it is."""
    made = each.make
    return made.turn == 1 and not made.transparent and not made.moving and made.mode in PLAIN_MODES


def _write(each: Look, path: Path) -> bool:
    """Copy or convert one image; whether it was converted."""
    if in_order(each):
        shutil.copyfile(each.example.path, path)
        return False
    upright = read_image(each.example.path)
    upright.info = {}  # Pillow would write the note to turn it, and much else, again
    if path.suffix == ".png":
        atomic_write(path, lambda temporary: upright.save(temporary, "PNG"))
    else:
        atomic_write(path, lambda temporary: upright.save(temporary, "JPEG", quality=95, subsampling=0))
    return True


def _write_beside(each: Look, path: Path, lent: tuple[str, ...]) -> None:
    if captions := each.example.written or lent:
        write_text(path.with_suffix(".txt"), "\n".join(captions) + "\n")
    if each.example.region:
        write_text(path.with_suffix(REGION), " ".join(map(str, each.example.region)) + "\n")


def _free(name: PurePosixPath, each: Look, taken: set[str]) -> PurePosixPath:
    """The name to write to; images that differ in their ending alone would share a caption."""
    suffix = name.suffix if in_order(each) else ".jpg" if each.make.coarseness else ".png"
    stem, number = str(name.with_suffix("")), 1
    while (free := stem if number == 1 else f"{stem}-{number}").lower() in taken:
        number += 1
    taken.add(free.lower())
    return PurePosixPath(free + suffix)
