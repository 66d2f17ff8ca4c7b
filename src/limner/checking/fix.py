"""The safe repairs of a folder of images, into a new one: the folder itself is never written to."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from limner.checking.check import CheckReport
from limner.checking.findings import PLAIN_MODES
from limner.checking.image_stats import ImageStats
from limner.data.images import REGION, read_image
from limner.errors import BadUsage
from limner.files import atomic_folder, atomic_write, human, real_path, require_space, write_json, write_text
from limner.reporter import Reporter

COPIES = ("duplicate", "near-duplicate")
"""Findings whose image is left behind; of a burst the sharpest has none."""
SPARE = 1.5
"""Times the size of the originals that is asked for: a converted image may grow."""


@dataclass(frozen=True)
class FixReport:
    """What was written."""

    folder: Path
    copies: tuple[str, ...]
    """Unchanged to the byte."""
    conversions: tuple[str, ...]
    """Turned upright, first frame, on white, RGB of 8 bits."""
    caption_transfers: tuple[tuple[str, str], ...]
    """Image that had no caption, the copy left behind whose caption it got."""
    left_behind: tuple[tuple[str, str], ...]
    """Image, why."""

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        return (
            f"Fixed: {self.folder}: {len(self.copies)} copied, {len(self.conversions)} converted, "
            f"{len(self.left_behind)} left behind"
        )


def write_fixed_copy(report: CheckReport, folder: Path, reporter: Reporter) -> FixReport:
    """Write what is usable into ``folder``: upright and RGB, without copies, the sharpest of each burst.

    Images that are in order are copied byte for byte. JPEGs that must be written anew are saved at quality
    95 without colour subsampling, others as PNG. Captions and crops go beside the images as ``.txt`` and
    ``.crop``, masks as ``NAME-mask.png``; an image without a caption gets that of a copy that is left behind.
    Sub-folders stay, so kohya's repeats do. ``fixed.json`` tells what was done. The folder appears when it is
    whole: what a kill left of one is made anew.

    Raises:
        BadUsage: The folder exists, or lies in the folder of images.
        DiskFull: There is not enough room.
    """
    if os.path.lexists(folder):
        raise BadUsage(f"{folder} exists. Name a new folder with --fix.")
    if real_path(folder).is_relative_to(real_path(report.folder.root)):
        raise BadUsage(f"{folder} lies in the folder of images. Name a folder outside of it with --fix.")
    copies = {item.image: item.reason for item in report.findings if item.kind in COPIES}
    omissions = [(item.image, item.reason) for item in report.findings if item.kind == "left-out"]
    selection = [
        (item, name) for item, name in zip(report.looks, report.names, strict=True) if name not in copies
    ]
    transfers = _lent(report)
    bytes_ = sum(item.example.path.stat().st_size for item, _ in selection)
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, int(SPARE * bytes_), f"the repaired images ({human(bytes_)} as they are)")
    unchanged_files: list[str] = []
    converted_files: list[str] = []
    names: set[str] = set()
    with atomic_folder(folder) as draft:
        with reporter.progress("write", len(selection)) as steps:
            for item, name in selection:
                target = _free(PurePosixPath(name), item, names)
                (draft / target).parent.mkdir(parents=True, exist_ok=True)
                (converted_files if _write(item, draft / target) else unchanged_files).append(str(target))
                _write_sidecars(item, draft / target, transfers.get(name, ("", ()))[1])
                steps.advance()
        pairs = tuple((name, copy) for name, (copy, _) in transfers.items())
        left_behind = (*copies.items(), *omissions)
        result = FixReport(folder, tuple(unchanged_files), tuple(converted_files), pairs, left_behind)
        write_json(draft / "fixed.json", {**result.plain(), "folder": folder.name})
    return result


def _lent(report: CheckReport) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Image without a caption -> the first of its copies that has one, and what it says."""
    captions = {
        name: item.example.source_captions for item, name in zip(report.looks, report.names, strict=True)
    }
    transfers: dict[str, tuple[str, tuple[str, ...]]] = {}
    for item in report.findings:
        if item.copy_of and not captions[item.copy_of] and captions[item.image]:
            transfers.setdefault(item.copy_of, (item.image, captions[item.image]))
    return transfers


def in_order(item: ImageStats) -> bool:
    """Whether training reads the file as it is."""
    info = item.format_info
    return info.turn == 1 and not info.transparent and not info.moving and info.mode in PLAIN_MODES


def _write(item: ImageStats, path: Path) -> bool:
    """Copy or convert one image; whether it was converted."""
    if in_order(item):
        shutil.copyfile(item.example.path, path)
        return False
    upright = read_image(item.example.path)
    upright.info = {}  # Pillow would write the note to turn it, and much else, again
    if path.suffix == ".png":
        atomic_write(path, lambda temporary: upright.save(temporary, "PNG"))
    else:
        atomic_write(path, lambda temporary: upright.save(temporary, "JPEG", quality=95, subsampling=0))
    return True


def _write_sidecars(item: ImageStats, path: Path, extra: tuple[str, ...]) -> None:
    if captions := item.example.source_captions or extra:
        write_text(path.with_suffix(".txt"), "\n".join(captions) + "\n")
    if mask := item.example.mask:  # a conversion loses alpha, and names may change
        image = mask.image()
        atomic_write(path.with_name(f"{path.stem}-mask.png"), lambda draft: image.save(draft, "PNG"))
    if item.example.region:
        write_text(path.with_suffix(REGION), " ".join(map(str, item.example.region)) + "\n")


def _free(name: PurePosixPath, item: ImageStats, names: set[str]) -> PurePosixPath:
    """The name to write to; images that differ in their ending alone would share a caption."""
    suffix = name.suffix if in_order(item) else ".jpg" if item.format_info.coarseness else ".png"
    stem, number = str(name.with_suffix("")), 1
    while (free := stem if number == 1 else f"{stem}-{number}").lower() in names:
        number += 1
    names.add(free.lower())
    return PurePosixPath(free + suffix)
